"""The funnel: counts and times are those of a plain loop over sessions, and intervals hold what they promise."""

from pathlib import Path
from statistics import median

import numpy as np
import pytest

from export.log.log import Log, read_log
from export.sequences import steps as steps_module
from export.sequences.funnel import Funnel, stages_of
from export.sequences.intervals import Shares, wilson
from export.sequences.steps import parts, steps_of
from stream.errors import ConfigError
from tests.oracle_paths import by_user, random_rows, reached, sessions_of, write

STAGES = ["view", "cart", "purchase"]


def funnel_of(log: Log, stages: list[int]) -> Funnel:
    funnel = Funnel(log, stages)
    for part in parts(log, steps_of(log, "event_type", 30)):
        funnel.add(part)
    return funnel


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_counts_and_times_are_those_of_a_plain_loop(
    seed: int, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions, users, clicks of any order, drop-off and median times, with parts of a few clicks."""
    monkeypatch.setattr(steps_module, "PART", 50)
    rows = random_rows(seed)
    log = read_log(write(rows, tmp_path / "log.csv", own))
    figures = funnel_of(log, stages_of(log, None)).figures()
    assert [stage["stage"] for stage in figures] == STAGES
    sessions = sessions_of(rows, own)
    way = [reached(session.rows, STAGES) for session in sessions]
    users = [reached(mine, STAGES) for mine in by_user(rows).values()]
    at_before, users_before = len(sessions), len(users)
    for number, stage in enumerate(figures):
        here = [i for i, found in enumerate(way) if len(found) > number]
        assert stage["sessions"] == len(here)
        assert stage["share"] == pytest.approx(len(here) / len(sessions))
        assert stage["with_event"] == sum(any(row.event == STAGES[number] for row in s.rows) for s in sessions)
        assert (stage["drop_off"]["of"], stage["drop_off"]["lost"]) == (at_before, at_before - len(here))
        of_users = sum(len(found) > number for found in users)
        assert stage["users"] == of_users
        assert stage["users_drop_off"]["lost"] == users_before - of_users
        before = [way[i][number - 1].ms if number else sessions[i].rows[0].ms for i in here]
        taken = [(way[i][number].ms - ms) / 1000 for i, ms in zip(here, before, strict=True)]
        assert stage["seconds_from_stage_before"][1] == pytest.approx(median(taken))
        left = [i for i in here if len(way[i]) == number + 1]
        stayed = [(sessions[i].rows[-1].ms - way[i][number].ms) / 1000 for i in left]
        assert (stage["seconds_to_last_click"] or [0, None])[1] == (pytest.approx(median(stayed)) if stayed else None)
        at_before, users_before = len(here), of_users


def test_a_user_reaches_stages_in_the_order_of_time(tmp_path: Path) -> None:
    """Sessions of a user that overlap: a cart before the view, in another session, is not after it."""
    file = tmp_path / "log.csv"
    clicks = [("a", "search"), ("b", "cart"), ("a", "view")]
    lines = [f"u,i,{event},{1_735_689_600 + at},{session}" for at, (session, event) in enumerate(clicks)]
    file.write_text("user_id,item_id,event_type,timestamp,session_id\n" + "\n".join(lines) + "\n")
    log = read_log(file)
    view, cart = funnel_of(log, stages_of(log, "view,cart")).figures()
    assert (view["users"], cart["users"]) == (1, 0)


def log_of(names: list[str]) -> Log:
    """One click of each event type."""
    count = len(names)
    none = np.zeros(count, np.int32)
    return Log(
        none, none, np.arange(count, dtype=np.int32), none, np.arange(count) * 1000, ["u"], ["i"], names, [""], name="x"
    )


def test_stages_of_a_shop_are_known_by_their_usual_names() -> None:
    """Whatever the shop calls them, and in the order of a shop, not of the log."""
    names = ["transaction", "addtocart", "scroll", "Product Viewed"]
    assert stages_of(log_of(names), None) == [3, 1, 0]
    assert stages_of(log_of(["scroll", "view"]), None) == []


@pytest.mark.parametrize(
    ("asked", "fragment"),
    [
        ("view,addtocard", "no event type 'addtocard'; did you mean 'add_to_cart'?"),
        ("view,zzz", "it has view, add_to_cart"),
        ("view", "give two or more"),
        ("view,view", "two or more different"),
    ],
)
def test_a_wrong_stage_is_one_line(asked: str, fragment: str) -> None:
    """The line names the stage that is most like it."""
    with pytest.raises(ConfigError, match=fragment.replace("?", r"\?")) as raised:
        stages_of(log_of(["view", "add_to_cart"]), asked)
    assert "\n" not in str(raised.value)


def test_wilson_is_the_published_interval() -> None:
    """Of 263 trials 81 (Newcombe 1998, table I, method 3), and no trial at all."""
    np.testing.assert_allclose(wilson(np.array([81 / 263]), np.array([263.0])), [[0.2553, 0.3662]], atol=5e-5)
    assert np.isnan(wilson(np.array([0.0]), np.array([0.0]))).all()


def test_the_interval_holds_for_users_with_many_alike_sessions() -> None:
    """95% of the intervals hold the true share if the sessions of a user are alike; plain Wilson holds it far less."""
    rng = np.random.default_rng(5)
    inside = plain = 0
    for _ in range(400):
        users = 150
        sessions = rng.integers(1, 12, users)
        own = np.clip(rng.beta(1, 3, users), 0, 1)
        hits = rng.binomial(sessions, own)
        shares = Shares(1)
        user = np.repeat(np.arange(users), hits)
        shares.add(np.zeros(len(user), np.int64), user, sessions)
        low, high = shares.interval()[0]
        inside += low <= 0.25 <= high
        low, high = wilson(shares.share(), np.array([float(shares.of)]))[0]
        plain += low <= 0.25 <= high
    assert inside >= 0.92 * 400
    assert plain < 0.85 * 400
