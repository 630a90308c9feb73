"""A click with an event id that the user sent before is not applied again; clicks without ids cost nothing more."""

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.engine.engine import Engine
from stream.errors import ConfigError
from stream.events import Click, Partition
from stream.model.runtime import Model, load_model
from stream.state.arena import Arena
from stream.worker.served import open_engine
from tests.decide import process, run
from tests.oracle import Oracle
from tests.unit.engine.test_not_finite import spoil

ONE = Partition("clicks", 0)
START_MS = 1_700_000_000_000
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


@pytest.fixture
def engine(model: Model, model_dir: Path) -> Engine:
    return open_engine(model, model_dir, 5, 1, 0.05)


def click(user: str, item: str, event_id: str | None, ms: int = 0) -> Click:
    return Click(user, item, START_MS + ms, event_id=event_id)


OFFSETS = ("session_offset", "source_offset", "episode_offset")


def without_offset(engine: Engine, key: bytes) -> list[object]:
    row = np.frombuffer(engine.arena.rows(ONE)[key][: engine.arena.dtype.itemsize], engine.arena.dtype)[0]
    return [row[name].tolist() for name in row.dtype.names if name not in ("checksum", *OFFSETS)]


def test_clicks_that_were_sent_twice_are_decided_once(engine: Engine, model: Model, model_dir: Path) -> None:
    """In one batch or in two, the second copy has no decision, and the state is that of the clicks sent once."""
    clicks = [click(f"u{n % 7}", f"i{n % 30}", f"e{n}", n) for n in range(40)]
    twice = [copy for one in clicks for copy in (one, one)]
    once = open_engine(model, model_dir, 5, 1, 0.05)
    want = run(once, clicks).recommendations
    decided = run(engine, twice)
    again = run(engine, twice[:60], start=80)
    assert [r.items for r in decided.recommendations] == [r.items for r in want]
    assert (len(decided.cycle.repeated), len(again.cycle.repeated), len(again.recommendations)) == (40, 60, 0)
    for n in range(7):
        assert without_offset(engine, b"u%d" % n) == without_offset(once, b"u%d" % n)


def test_only_the_last_sixteen_ids_of_the_user_count(engine: Engine) -> None:
    """The same id of another user is another event; an id is known again only after sixteen others."""
    assert len(run(engine, [click("a", "i1", "x"), click("b", "i1", "x")]).recommendations) == 2
    others = [click("a", "i2", f"e{n}") for n in range(16)]
    assert len(run(engine, others[:15], 2).recommendations) == 15
    assert run(engine, [click("a", "i3", "x")], 17).recommendations == []
    assert len(run(engine, [others[15], click("a", "i3", "x")], 18).recommendations) == 2


def test_a_click_that_failed_may_be_sent_again(model_dir: Path, tmp_path: Path) -> None:
    """Its id is not kept, because the click was not applied."""
    directory = spoil(model_dir, tmp_path / "spoiled" / "1", "state")
    engine = open_engine(load_model(directory, "cpu"), directory, 5, 1, 0.05)
    assert run(engine, [click("a", "i7", "x")]).cycle.failed.tolist() == [0]
    assert len(run(engine, [click("a", "i1", "x")], 1).recommendations) == 1


CLICKS = st.lists(
    st.builds(
        click,
        user=st.sampled_from(["a", "b", "c"]),
        item=st.sampled_from(["i1", "i2", "never seen"]),
        event_id=st.none() | st.sampled_from([f"e{n}" for n in range(20)]),
        ms=st.integers(0, 40).map(lambda n: n * DAY_MS),
    ),
    max_size=60,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(clicks=CLICKS, cuts=st.lists(st.integers(0, 60), max_size=4))
def test_repeats_do_not_depend_on_the_batches_or_a_restart(
    model: Model, model_dir: Path, clicks: list[Click], cuts: list[int]
) -> None:
    """However the stream is cut, also where users are forgotten, decisions and rows are those of a plain loop.

    Between two batches the arena is loaded from its changelog rows, as after a restart.
    """
    engine = open_engine(model, model_dir, 5, 1, 0.05, forget_after_days=10)
    oracle = Oracle(model_dir, 5, 1, 0.05, forget_after_days=10)
    expected = [
        oracle.decide("clicks", 0, n, one.user_id.encode(), msgspec.json.encode(one)) for n, one in enumerate(clicks)
    ]
    edges = sorted({0, len(clicks), *(cut for cut in cuts if cut < len(clicks))})
    for a, b in itertools.pairwise(edges):
        decided = run(engine, clicks[a:b], a)
        want = [one.decision for one in expected[a:b] if one is not None]
        assert [msgspec.to_builtins(one) for one in decided.recommendations] == want
        rows, kept, time_ms = engine.arena.rows(ONE), dict(engine.arena.kept), engine.arena.newest_ms(ONE)
        engine.arena.hold(ONE)
        assert engine.arena.load(ONE, rows) == []
        engine.arena.advance(ONE, time_ms)  # as the mark says it
        engine.arena.kept.update(kept)  # as recovery does from the mark
        assert engine.arena.rows(ONE) == rows
    rows = engine.arena.rows(ONE)
    for _, key, row, may_be_gone in oracle.rows(engine.arena.model):
        assert rows.pop(key, row if may_be_gone else None) == row
    assert rows == {}


def test_the_changelog_row_has_eight_bytes_for_each_id(engine: Engine) -> None:
    """A user without event ids has the row as before; the staged rows are those of the arena after the commit."""
    size = engine.arena.dtype.itemsize
    clicks = [click("none", "i1", None), *(click("some", "i2", f"e{n}") for n in range(3))]
    clicks += [click("many", "i2", f"e{n}") for n in range(20)]
    decided = process(engine, clicks)
    staged = {key: row for _, key, row in decided.cycle.staged.changelog}
    engine.commit(decided.cycle)
    assert engine.arena.rows(ONE) == staged
    assert {key: len(row or b"") - size for key, row in staged.items()} == {b"none": 0, b"some": 24, b"many": 128}


def test_ids_of_a_removed_row_do_not_come_back(engine: Engine) -> None:
    """A slot that is used again begins without ids."""
    run(engine, [click("a", "i1", "x")])
    engine.arena.remove([(ONE, b"a")])
    assert len(run(engine, [click("b", "i1", "x")], 1).recommendations) == 1
    assert len(engine.arena.rows(ONE)[b"b"]) == engine.arena.dtype.itemsize + 8


def test_a_row_with_a_broken_id_is_broken(engine: Engine) -> None:
    """The row's checksum covers the ids, too."""
    run(engine, [click("a", "i1", "x")])
    row = engine.arena.rows(ONE)[b"a"]
    assert Arena(engine.arena.dtype, engine.arena.model).load(ONE, {b"a": row[:-1] + bytes([row[-1] ^ 1])}) == [b"a"]


def test_a_row_of_another_length_is_refused(engine: Engine) -> None:
    """More than sixteen ids, or a part of one, is a layout of another version."""
    from xxhash import xxh3_64_intdigest

    run(engine, [click("a", "i1", "x")])
    row = engine.arena.rows(ONE)[b"a"]
    for rest in (row[8:] + b"\1" * 128, row[8:-3], row[8:-50]):
        checksum = xxh3_64_intdigest(rest, xxh3_64_intdigest(b"a")).to_bytes(8, "little")
        with pytest.raises(ConfigError, match="another model, Eddy version"):
            engine.arena.load(ONE, {b"a": checksum + rest})


def test_without_event_ids_no_memory_is_used(engine: Engine) -> None:
    """The blocks of the hashes exist only where a user has one."""
    run(engine, [click(f"u{n}", "i1", None) for n in range(50)])
    assert not engine.arena.event_ids
