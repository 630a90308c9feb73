"""`eddy paths` as it is typed: tables, JSON, a page, and one line for every mistake."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from export.log.log import Log
from export.paths.command import paths
from export.paths.run import Asked, figures
from export.progress import NullProgress
from export.sequences import steps as steps_module
from stream.errors import ConfigError

START_S = 1_735_689_600
SESSIONS = ["view view cart purchase", "view", "view cart", "view cart view", "purchase"] * 30
FAR_S = 86_400


def written(path: Path, sessions: list[str] = SESSIONS) -> Path:
    """A log of these sessions, one a day and user; users have five sessions each."""
    lines = ["user_id,item_id,category,event_type,timestamp"]
    for number, session in enumerate(sessions):
        for at, event in enumerate(session.split()):
            moment = START_S + number % 5 * FAR_S + at * 60
            lines.append(f"u{number // 5},i{at % 2},c{at % 2},{event},{moment}")
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(paths, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("log") / "log.csv")


def test_help_has_an_example() -> None:
    shown = run("--help")
    assert shown.exit_code == 0
    assert "eddy paths clicks.parquet" in shown.output


def test_json_has_the_figures(log: Path) -> None:
    """30 users with five sessions each: the funnel, a path, the repeats of a step, a loop and the ends."""
    found = json.loads(run(log, "--json").stdout)
    assert (found["clicks"], found["sessions"], found["users"]) == (330, 150, 30)
    view, cart, purchase = found["funnel"]
    assert (view["sessions"], cart["sessions"], purchase["sessions"]) == (120, 90, 30)
    assert (purchase["with_event"], purchase["users"]) == (60, 30)
    assert cart["seconds_from_stage_before"] == [60.0, 60.0, 120.0]
    paths_found = {tuple(path["steps"]): path["sessions"] for path in found["paths"]["top"]}
    assert paths_found["view", "cart"] == 90
    assert paths_found["view", "cart", "purchase", "(end)"] == 30
    [step] = [step for step in found["steps"] if step["step"] == "view"]
    assert step == {"step": "view", "clicks": 180, "steps": 150, "clicks_per_step": 1.2}
    assert [loop["steps"] for loop in found["loops"]["loops"]] == [["view", "cart", "view"]]
    assert found["entry"][0]["sessions"] == 120
    assert found["returns"]["item"]["sessions"] == 60
    assert found["flow"]["columns"][0][0] == {"step": "view", "sessions": 120}


def test_the_tables_have_the_figures(log: Path) -> None:
    """A terminal shows counts, shares with intervals, times and findings; a comparison has both groups."""
    shown = run(log, "--compare", "2025-01-03").stdout
    for text in ("330 clicks, 150 sessions, 30 users", "view > cart > purchase > (end)", "80.0% (", "2.0 min",
                 "view > cart > view", "before 2025-01-03", "Comparison of the paths"):  # fmt: skip
        assert text in shown


def test_a_comparison_by_users(log: Path, tmp_path: Path) -> None:
    """The users of a file beside the others; an id that is no user is counted."""
    file = tmp_path / "some.txt"
    file.write_text("".join(f"u{n}\n" for n in range(10)) + "nobody\n")
    found = json.loads(run(log, "--compare-users", file, "--json").stdout)
    groups = found["comparison"]["groups"]
    assert [groups[name]["users"] for name in ("other users", "users of some.txt")] == [20, 10]
    assert found["comparison"]["funnel"][1]["difference"] == 0
    assert any("1 id of" in line for line in found["remarks"])
    assert any("fewer than 30" in line for line in found["remarks"])


@pytest.mark.parametrize(
    ("sessions", "arguments", "remark"),
    [
        (["view"], [], "only 1 session:"),
        (["view view", "view"], [], "all steps are 'view'"),
        (["scroll view", "scroll"], [], "no funnel: the log has fewer than two of view, cart, purchase"),
        (["view cart"], ["--in-order"], "synthetic"),
        (["view cart purchase"], ["--stages", "purchase,cart,view"], "only 1 session:"),
        (["view cart purchase"] * 20, ["--top", "2"], "values after the first 2"),
    ],
)
def test_small_logs_give_figures_and_a_remark(
    tmp_path: Path, sessions: list[str], arguments: list[str], remark: str
) -> None:
    """One session, one event type, no stage: no error, and a line that says it; with a page, too."""
    file = written(tmp_path / "log.csv", sessions)
    done = run(file, "--json", "--html", tmp_path / "page.html", *arguments)
    assert done.exit_code == 0, done.exception
    assert any(remark in line for line in json.loads(done.stdout)["remarks"])
    assert remark in run(file, *arguments).stdout
    assert remark.replace("'", "&#39;") in (tmp_path / "page.html").read_text()


def test_event_types_that_control_a_terminal_are_shown_as_question_marks(tmp_path: Path) -> None:
    """Event types come from outside: a tracker can be sent any."""
    file = tmp_path / "log.csv"
    file.write_text('user_id,item_id,event_type,timestamp\nu,i,"\x1b[31m\nred",1700000000\nu,i,\u202eleft,1700000009\n')
    shown = run(file).stdout
    assert "name stages among ?[31m?red, ?left by --stages" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["missing.csv"], "no such file"),
        (["empty.csv"], "a header and no rows"),
        (["log.csv", "--stages", "view,crat"], "did you mean 'cart'?"),
        (["log.csv", "--compare", "soon"], "'soon' is neither"),
        (["log.csv", "--compare", "2031-01-01"], "no session is in the group 'from 2031"),
        (["log.csv", "--compare", "2025-01-02", "--compare-users", "x"], "omit one of the two"),
        (["log.csv", "--compare", "2025-01-02", "--in-order"], "omit one of the two"),
        (["log.csv", "--compare-users", "missing.txt"], "cannot be read"),
        (["log.csv", "--html", "missing/page.html"], "cannot be written"),
        (["log.csv", "--html", "."], "cannot be written"),
        (["log.csv", "--html", "log.csv"], "is not replaced"),
        (["log.csv", "--compare-users", "users.txt", "--html", "users.txt"], "is not replaced"),
        (["plain.csv", "--by", "category"], "--by category needs a column"),
        (["log.csv", "--mapping", "missing.toml"], "no such file"),
        ([], "give either a LOG or --topic"),
        (["log.csv", "--topic", "clicks"], "give either a LOG or --topic"),
        (["--topic", "clicks", "--item-col", "sku"], "--item-col is for a file"),
        (["--topic", "clicks", "--in-order"], "--in-order is for a file"),
        (["--topic", "clicks", "--mapping", "avro.toml"], "give --schema-registry"),
        (["--topic", "clicks-by-user", "--mapping", "rekeyed.toml"], "give the topic that the producers write"),
        (["--topic", "clicks", "--broker", "localhost:1"], "localhost:1 cannot be reached"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], fragment: str
) -> None:
    """What is wrong, and what to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stream.access.publish.CONNECT_S", 1.0)
    fields = "[fields]\nuser_id = 'u'\nitem_id = 'i'\ntimestamp = 't'\n"
    Path("avro.toml").write_text("[message]\nformat = 'avro'\n" + fields)
    Path("rekeyed.toml").write_text("[key]\nrekey = true\n" + fields)
    written(Path("log.csv"), SESSIONS[:10])
    Path("empty.csv").write_text("user_id,item_id,timestamp\n")
    Path("plain.csv").write_text(f"user_id,item_id,timestamp\nu,i,{START_S}\n")
    Path("users.txt").write_text("u0\n")
    before = {file: file.read_bytes() for file in Path().iterdir()}
    done = run(*arguments)
    assert isinstance(done.exception, ConfigError)
    assert fragment in str(done.exception)
    assert "\n" not in str(done.exception)
    assert {file: file.read_bytes() for file in Path().iterdir()} == before


def test_the_page_replaces_a_page_and_an_empty_file(log: Path, tmp_path: Path) -> None:
    """A page of yesterday is replaced, and one that was cut; a mistake leaves no empty file."""
    page = tmp_path / "page.html"
    for content in ("", "<!DOCTYPE html>\n<p>yesterday", "<!doctype html>"):
        page.write_text(content)
        assert run(log, "--html", page).exit_code == 0
        assert page.read_text().endswith("</html>")
    page.unlink()
    assert run(tmp_path / "missing.csv", "--html", page).exception
    assert not page.exists()


def test_a_mapping_names_the_columns(tmp_path: Path) -> None:
    """As for a training: the fields of a log of another shape."""
    (tmp_path / "m.toml").write_text(
        "[fields]\nuser_id = 'who'\nitem_id = 'what'\ntimestamp = 'at'\nevent_type = 'did'\n"
    )
    rows = [{"who": "u", "what": "i", "at": START_S + n, "did": did} for n, did in enumerate(("view", "cart"))]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = json.loads(run(tmp_path / "log.jsonl", "--mapping", tmp_path / "m.toml", "--json").stdout)
    assert [stage["sessions"] for stage in found["funnel"]] == [1, 1]


def test_one_session_is_not_a_plural(tmp_path: Path) -> None:
    """The heading of the loops, that of the returns, and the summary."""
    shown = run(written(tmp_path / "log.csv", ["view cart view", "view", "view cart"])).stdout
    assert "6 clicks, 3 sessions, 1 user;" in shown
    assert ") has one" in shown[shown.index("Loops: 1 session (33.3%") :]
    assert ") returns to the same item" in shown[shown.index("Returns: 1 session (33.3%") :]


def test_a_count_is_few_bytes_a_click(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of the log are counted one by one: below 35 bytes a click with ten clicks a session."""
    monkeypatch.setattr(steps_module, "PART", 20_000)
    sessions, clicks = 60_000, 600_000
    rng = np.random.default_rng(0)
    session = np.repeat(np.arange(sessions, dtype=np.int32), clicks // sessions)
    event, item = rng.integers(0, 3, clicks, np.int32), rng.integers(0, 50, clicks, np.int32)
    names = [str(n) for n in range(sessions)]
    log = Log(
        session, item, event, session, np.arange(clicks) * 1000, names, names[:50], ["view", "cart", "purchase"], []
    )
    tracemalloc.start()
    found = figures(log, Asked(compare_ms=300_000_000), NullProgress())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["sessions"] == sessions
    assert peak / clicks < 35
