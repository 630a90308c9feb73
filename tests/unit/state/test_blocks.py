"""States in a file: they come back from the disk, and a disk without room is an error of one line, never a signal."""

import errno
import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.scaling import page_out
from stream.errors import ConfigError
from stream.state import blocks
from stream.state.blocks import BLOCK_SLOTS, StateFile, check_reserves, on_disk
from stream.state.event_ids import LAST_IDS, EventIds

DTYPE = np.dtype([("number", "<i8"), ("vector", "<f4", (301,))])
linux = pytest.mark.skipif(sys.platform != "linux", reason="states in a file need Linux")


@linux
def test_values_are_read_back_after_the_kernel_has_put_them_on_the_disk(tmp_path: Path) -> None:
    """Values of several mappings and dtypes, written, moved out of memory, changed, moved out again."""
    new_block = StateFile(tmp_path).new_block
    made, ids = [new_block(DTYPE) for _ in range(3)], EventIds(new_block)
    rng = np.random.default_rng(0)
    want = [np.frombuffer(rng.bytes(BLOCK_SLOTS * DTYPE.itemsize), DTYPE).copy() for _ in made]
    hashes = rng.integers(1, 2**63, (4, LAST_IDS), np.uint64)
    slots = np.array([0, 5, BLOCK_SLOTS, 3 * BLOCK_SLOTS - 1])
    ids.scatter(slots, hashes)
    for block, values in zip(made, want, strict=True):
        block.values.view(f"V{DTYPE.itemsize}")[:] = values.view(f"V{DTYPE.itemsize}")
    page_out(tmp_path)
    for block, values in zip(made, want, strict=True):
        some = rng.integers(0, BLOCK_SLOTS, 50)
        block.will_read(some)
        assert block.values[some].tobytes() == values[some].tobytes()
        block.values["number"][some] = values["number"][some] = some
    page_out(tmp_path)
    assert all(block.values.tobytes() == values.tobytes() for block, values in zip(made, want, strict=True))
    np.testing.assert_array_equal(ids.gather(slots), hashes)


@linux
def test_a_disk_without_room_is_one_line_before_the_memory_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line has the directory, the system's reason and what to do; the blocks before stay usable."""
    new_block = StateFile(tmp_path).new_block
    first = new_block(DTYPE)

    def full(file: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match=rf"^[^\n]*{tmp_path}: No space left on device; free space[^\n]*$"):
        new_block(DTYPE)
    monkeypatch.undo()
    first.values["number"] = 7
    assert (new_block(DTYPE).values["number"] == 0).all()


@linux
def test_each_block_has_its_space_on_the_disk_before_it_is_used(tmp_path: Path) -> None:
    """Without it, a full disk would end the process with a signal at the first write to a page."""
    file = StateFile(tmp_path)
    for count in range(1, 4):
        file.new_block(DTYPE)
        used = sum(os.fstat(number).st_blocks * 512 for number in open_files(tmp_path))
        assert used >= count * BLOCK_SLOTS * DTYPE.itemsize


def open_files(directory: Path) -> list[int]:
    """One open file per unnamed file of this process in a directory."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink() and os.readlink(link).startswith(str(directory)):
            found[os.readlink(link)] = int(link.name)
    return list(found.values())


@linux
def test_more_blocks_than_one_mapping_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three mappings keep their own values."""
    monkeypatch.setattr(blocks, "MAP_BYTES", 2 * BLOCK_SLOTS * DTYPE.itemsize)
    new_block = StateFile(tmp_path).new_block
    made = [new_block(DTYPE) for _ in range(5)]
    for number, block in enumerate(made):
        block.values["number"] = number
    assert [set(block.values["number"].tolist()) for block in made] == [{number} for number in range(5)]


@linux
def test_a_file_that_may_not_grow_is_one_line(tmp_path: Path) -> None:
    """A limit of the system on the size of files (ulimit -f)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(ConfigError, match=r"File too large; free space"):
            StateFile(tmp_path).new_block(DTYPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("kind", "refused"), [("ext4", False), ("xfs", False), ("btrfs", True), ("overlay", True), ("nfs4", True)]
)
def test_only_file_systems_that_keep_reserved_space_are_taken(tmp_path: Path, kind: str, refused: bool) -> None:
    """The mount nearest to the directory counts, and of two on one directory the last one."""
    mounts = (
        f"none / overlay rw 0 0\nnone {tmp_path} zfs rw 0 0\n/dev/a {tmp_path} {kind} rw 0 0\nnone /x btrfs rw 0 0\n"
    )
    if not refused:
        check_reserves(tmp_path / "data", mounts)
        return
    with pytest.raises(ConfigError, match=rf"is on {kind}, where a full disk .* without --state-on-disk"):
        check_reserves(tmp_path / "data", mounts)


@linux
def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """It names the directory and the options."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"no file for the states can be made in .*/file/data .*--data-dir"):
        on_disk(tmp_path / "file" / "data")


def test_other_systems_refuse_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the setting, before anything is written."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="state_on_disk needs Linux"):
        on_disk(tmp_path / "data")
    assert not (tmp_path / "data").exists()
