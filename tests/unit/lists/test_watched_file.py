"""A file that is read again when it changes."""

import logging
import os
from pathlib import Path

import pytest

from stream.errors import ConfigError
from stream.lists.watched_file import WatchedFile


class Reader:
    """Loads text and counts the loads; text with "bad" in it is refused."""

    def __init__(self) -> None:
        self.loads = 0

    def __call__(self, path: Path) -> str:
        self.loads += 1
        try:
            text = path.read_text()
        except OSError as exc:
            raise ConfigError(f"{path} cannot be read: {exc}") from exc
        if "bad" in text:
            raise ConfigError(f"{path} is bad")
        return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "items.csv"
    found.write_text("one")
    return found


def test_a_file_that_does_not_change_is_read_once(path: Path) -> None:
    """A worker checks before every cycle: without a change the file is not read."""
    reader = Reader()
    watched = WatchedFile(path, reader)
    for _ in range(5):
        watched.refresh()
    assert (watched.value, reader.loads) == ("one", 1)


def test_a_replaced_file_is_read_even_if_time_and_size_are_the_same(path: Path) -> None:
    """A rename within one tick of the file system's clock, with as many bytes, is a new file."""
    watched, stat = WatchedFile(path, Reader()), path.stat()
    new = path.with_name("new.csv")
    new.write_text("two")
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    new.replace(path)
    watched.refresh()
    assert watched.value == "two"


def test_a_file_with_an_older_time_is_read_too(path: Path) -> None:
    """Deployments copy files with their times: a rollback to last week's catalogue counts as a change."""
    watched = WatchedFile(path, Reader())
    path.write_text("old")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    watched.refresh()
    assert watched.value == "old"


def test_a_file_that_grew_within_one_tick_is_read(path: Path) -> None:
    """A different size is noticed even if the time is the same."""
    watched, stat = WatchedFile(path, Reader()), path.stat()
    path.write_text("one and more")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    watched.refresh()
    assert watched.value == "one and more"


def test_a_bad_file_at_the_start_stops_the_start(path: Path) -> None:
    """Without earlier content the error is raised."""
    path.write_text("bad")
    with pytest.raises(ConfigError, match="is bad"):
        WatchedFile(path, Reader())
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        WatchedFile(path, Reader())


def test_a_file_that_turns_bad_is_reported_once_and_the_last_one_stays(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log for each bad version, not one for each cycle."""
    reader = Reader()
    watched = WatchedFile(path, reader)
    for number, text in enumerate(["bad 1", "bad 10", "bad 100"], 1):
        path.write_text(text)
        for _ in range(3):
            watched.refresh()
        assert watched.value == "one"
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * number
    assert reader.loads == 4
    path.write_text("good again")
    watched.refresh()
    assert watched.value == "good again"
    assert len(caplog.records) == 3


def test_a_file_that_is_missing_for_a_while_is_reported_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A deployment that deletes the file before it writes causes one line, and the new file is read when it exists."""
    watched = WatchedFile(path, Reader())
    path.unlink()
    for _ in range(3):
        watched.refresh()
    assert (watched.value, len(caplog.records)) == ("one", 1)
    path.write_text("back")
    watched.refresh()
    assert (watched.value, len(caplog.records)) == ("back", 1)


def test_the_file_behind_a_link_is_watched(tmp_path: Path) -> None:
    """Kubernetes mounts a configuration as a link through a linked directory, and changes only the directory's link."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "items.csv").write_text(f"version {version}")
    current, link = tmp_path / "current", tmp_path / "items.csv"
    current.symlink_to(tmp_path / "1")
    link.symlink_to(current / "items.csv")
    watched = WatchedFile(link, Reader())
    current.unlink()
    current.symlink_to(tmp_path / "2")
    watched.refresh()
    assert watched.value == "version 2"


def test_a_directory_with_the_name_of_the_file_is_a_bad_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The worker continues with the previous content."""
    watched = WatchedFile(path, Reader())
    path.unlink()
    path.mkdir()
    watched.refresh()
    assert (watched.value, len(caplog.records)) == ("one", 1)


def test_an_error_that_is_not_about_the_file_is_not_swallowed(path: Path) -> None:
    """Only a bad file is tolerated; an error of the program is raised."""

    def load(path: Path) -> int:
        return 1 // (len(path.read_text()) - 4)

    watched = WatchedFile(path, load)
    path.write_text("four")
    with pytest.raises(ZeroDivisionError):
        watched.refresh()
