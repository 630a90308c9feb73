"""The page in a real browser, on a server with a real engine and with alerts and figures by hand."""

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from math import log10
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from stream.answers.admin import Token
from stream.answers.desk import Desk, Open, Partitioner
from stream.answers.routes import answer_routes, no_routes
from stream.answers.similar import Similar
from stream.answers.users import Users
from stream.answers.workers import Workers
from stream.events import Click, Partition
from stream.meter import Meter
from stream.model.runtime import load_model
from stream.web.display import Display
from stream.web.files import page_routes
from stream.web.health import Doing, Health
from stream.web.routes import worker_routes
from stream.web.server import Server, listen
from stream.wire.json import JsonCodec
from stream.worker.served import open_engine
from tests.browser import chromium, opened
from tests.decide import run
from tests.unit.answers.test_workers import OWN, PLACE, Group
from tests.unit.web.test_alerts import anomaly, on_many
from tests.unit.web.test_hours import behaviour

EVIL = "<img src=x onerror=alert(1)>&\u202e/ü"
START_MS = 1_700_000_000_000


class Shop:
    """A worker with two users, figures and a second worker in its group that has no address."""

    def __init__(self, directory: Path, answers: bool = True) -> None:
        self.display = Display(Meter(), Health(), answers, hours=answers)
        meter, model = self.display.meter, load_model(directory, "cpu")
        engine = open_engine(model, directory, 5, 1, 0.01)
        run(engine, [Click(user, f"i{n}", START_MS + n * 1000) for n, user in enumerate((EVIL, "ann") * 4)])
        self.display.model(model.manifest, directory)
        self.display.health.kafka = SimpleNamespace(out=False, breaks=0)
        self.display.health.doing = lambda: Doing("assigned", 1)
        meter.level("info", 1, version="9", model="tiny/1", provider="CPUExecutionProvider", group="g", worker_id="7")
        meter.levels("partition_lag", "partition", {"0": 12})
        for second in range(0, 20, 2):
            meter.count("clicks", 250)
            meter.observe("latency", [0.04])
            self.display.note(lambda second=second: float(second))
        self.desk = Desk()
        group = Group(**{OWN: [0], "eddy-other@there/1": [1]})
        self.desk.open = Open(
            Users(engine, lambda: {Partition("clicks", 0): 3}),
            JsonCodec(65_536, 3_600_000),
            Partitioner(1),
            Workers(group, "g", "clicks", OWN, PLACE),  # type: ignore[arg-type]
            Similar(model, directory),
            lambda: False,
            5,
            lambda _: 0,
        )
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen on the port of before, if there was one."""
        listener = listen("127.0.0.1", self.port)
        self.port = listener.getsockname()[1]
        display = self.display
        answers = answer_routes(self.desk, Token(None), display) if display.answers else no_routes()
        routes = [*worker_routes(display.meter, display.health), *page_routes(display), *answers]
        self._server = Server(listener, routes)

    def stop(self) -> None:
        self._server.close()

    def get(self, path: str) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            found: dict[str, object] = json.loads(answer.read())
            return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def shop(model_dir: Path) -> Iterator[Shop]:
    made = Shop(model_dir)
    yield made
    made.stop()


def section(page: Page, title: str) -> Callable[[str], None]:
    """A function that expects a text in the section with this title."""
    found = page.get_by_role("region", name=title)
    return lambda text: expect(found).to_contain_text(text)


def no_wider_than_the_window(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_the_page_shows_figures_episodes_partitions_and_the_model(shop: Shop, browser: Browser) -> None:
    """As the worker has them. A new alert comes without a reload, and one episode is one row."""
    shop.display.alerts.add([anomaly(1, EVIL)])
    with opened(browser, shop.port) as seen:
        page = seen.page
        expect(page.get_by_role("status")).to_have_text("ready")
        expect(page.locator("#about")).to_have_text("worker 7 · tiny/1 · CPU")
        section(page, "Throughput")("125 clicks/s")
        section(page, "Throughput")("2,500 decided")
        section(page, "Lag")("12 messages wait")
        section(page, "Age at decision")("ms p50 · p99")
        section(page, "Age at decision")("since the Kafka timestamp")
        expect(page.get_by_role("img", name="Age of clicks at their decision: p50")).to_be_visible()
        section(page, "Partitions")("7 (this one)")
        section(page, "Partitions")("eddy-other@there/1")
        section(page, "Model")("tiny/1")
        section(page, "Latest episodes")("Alerts of other workers may be missing")
        rows = page.locator(".alerts li")
        expect(rows).to_have_count(1)
        expect(rows.first.get_by_role("link")).to_have_text(EVIL)
        shop.display.alerts.add([on_many(2)])
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("unknown items: 300 of 300 users")
        assert page.locator(".chart canvas:visible").count() == 3
        assert page.locator("[aria-live]").count() == 1
        assert no_wider_than_the_window(page)


def test_the_age_of_a_backlog_is_shown_in_hours(shop: Shop, browser: Browser) -> None:
    """It is no latency of the worker, and its milliseconds would not fit beside the chart."""
    shop.display.meter.observe("latency", [48 * 3600.0] * 500)
    shop.display.note(lambda: 22.0)
    with opened(browser, shop.port) as seen:
        shown = re.compile(r"^Age at decision[45]\d(\.\d)? h p50 · p99 [45]\d(\.\d)? h")
        expect(seen.page.get_by_role("region", name="Age at decision")).to_have_text(shown)
        expect(seen.page.get_by_text("atency")).to_have_count(0)


def test_the_page_shows_the_last_hours_of_the_worker(shop: Shop, browser: Browser) -> None:
    """As soon as one is over: figures, two charts, and what share of the sessions of the newest one reached. A new hour
    and the message of a second partition come without a reload."""
    with opened(browser, shop.port, timezone_id="Asia/Kolkata") as seen:
        page, hours = seen.page, seen.page.get_by_role("region", name="By the hour")
        expect(hours).to_contain_text("No hour is over yet")
        expect(hours.locator("canvas:visible")).to_have_count(0)
        shop.display.hours.add([behaviour(0, 0, 1, 1, 1, view=1)])
        expect(hours).to_contain_text(
            "2025-10-09 09:00 to 10:00 UTC, from 1 partition of this worker: 1 click, 1 user, 1 session began"
        )
        shop.display.hours.add([behaviour(0, 2, 4_000, 300, 150, cart=60, view=150, **{EVIL: 20})])
        shop.display.hours.add([behaviour(1, 2, 1_000, 80, 50, view=40, cart=20)])
        expect(hours).to_contain_text("11:00 to 12:00 UTC, from 2 partitions")
        expect(hours).to_contain_text("5,000 clicks, 380 users, 200 sessions began")
        expect(hours.locator("li")).to_have_text(["view95.0 %", "cart40.0 %", f"{EVIL}10.0 %"])
        expect(hours.locator("canvas:visible")).to_have_count(2)
        clicks = page.get_by_role("img", name="Clicks by the hour, UTC: 5,000 in the last one")
        expect(clicks).to_be_visible()
        assert page.locator("img").count() == 0


def test_the_page_of_a_user_is_reached_with_the_keyboard(shop: Shop, browser: Browser) -> None:
    """From an alert. It has the clicks, beliefs and lists of the answers; ids are text and never HTML."""
    shop.display.alerts.add([anomaly(1, EVIL)])
    state = shop.get(f"/v1/users/{quote(EVIL, safe='')}?k=10")
    with opened(browser, shop.port) as seen:
        page = seen.page
        link = page.locator(".alerts li").get_by_role("link")
        link.wait_for()
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.closest('.alerts li') !== null"):
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(EVIL)
        expect(page.locator(".path li")).to_have_text(["i6", "i4", "i2", "i0"])
        believed = page.get_by_role("region", name="The next click, as Eddy believes").locator("li")
        expect(believed).to_have_count(10)
        beliefs = state["beliefs"]
        assert isinstance(beliefs, list)
        expect(believed.first).to_contain_text(beliefs[0]["item_id"])
        shown = believed.first.locator("span").last.inner_text()
        assert float(shown.removesuffix(" %")) == pytest.approx(100 * beliefs[0]["probability"], abs=0.06)
        section(page, "Episodes")("one item")
        chart = page.get_by_role("img", name="Surprise of the last clicks")
        expect(chart).to_have_attribute("aria-label", _surprises(state))
        assert page.locator("img").count() == 0
        page.go_back()
        section(page, "Latest episodes")("one item")


def test_the_page_of_a_user_shows_what_is_predicted(ahead_dir: Path, shop: Shop, browser: Browser) -> None:
    """As the answer has it, the likeliest first; and a sentence if the model predicts nothing."""
    predicting = Shop(ahead_dir)
    state = predicting.get("/v1/users/ann?k=10")
    assert isinstance(state["next"], dict)
    following = {**state["next"], "no further click": state["leaves"]}
    expected = following | {"intent": state["intent"], "back in 7 days": state["returns_7d"]}
    with opened(browser, predicting.port) as seen:
        seen.page.goto(f"http://127.0.0.1:{predicting.port}/#/users/ann")
        rows = seen.page.get_by_role("region", name="What the user does next").locator("li")
        expect(rows).to_have_count(len(expected))
        shown = {}
        for row in rows.all():
            name, share = row.locator("span").all_inner_texts()
            shown[name] = float(share.removesuffix(" %")) / 100
            assert float(row.locator("meter").get_attribute("max") or 0) == 1
        assert shown == pytest.approx(expected, abs=6e-4)
        likeliest = sorted(following, key=lambda name: -following[name])
        assert [*shown] == [*likeliest, "intent", "back in 7 days"]
        assert no_wider_than_the_window(seen.page)
    predicting.stop()
    with opened(browser, shop.port) as seen:
        seen.page.goto(f"http://127.0.0.1:{shop.port}/#/users/ann")
        section(seen.page, "What the user does next")("This model does not predict it")


def test_what_is_below_the_figures_does_not_move_when_they_come(shop: Shop, browser: Browser) -> None:
    """A user who presses a link in this moment presses this link."""
    shop.display.alerts.add([anomaly(1, EVIL)])
    with opened(browser, shop.port) as seen:
        page, held = seen.page, list[Route]()
        page.goto("about:blank")
        page.route("**/v1/history", lambda route: held.append(route))
        with page.expect_request("**/v1/history"):
            page.goto(f"http://127.0.0.1:{shop.port}/")
        link = page.locator(".alerts li").get_by_role("link")
        expect(link).to_be_visible()
        before = link.evaluate("link => link.getBoundingClientRect().y")
        expect(page.locator(".figure").first).to_be_empty()
        held[0].continue_()
        expect(page.locator(".figure").first).to_contain_text("clicks/s")
        assert link.evaluate("link => link.getBoundingClientRect().y") == pytest.approx(before, abs=1)


def test_an_alert_between_press_and_release_does_not_take_the_click(shop: Shop, browser: Browser) -> None:
    """The link that was pressed is opened. The list is drawn again afterwards."""
    shop.display.alerts.add([anomaly(1, EVIL)])
    with opened(browser, shop.port) as seen:
        page = seen.page
        link = page.locator(".alerts li").get_by_role("link")
        link.hover()
        page.mouse.down()
        page.evaluate(
            """() => {
                const source = new EventSource("/v1/anomalies");
                window.told = new Promise((done) => source.addEventListener("system-alert", done));
                return new Promise((done) => source.addEventListener("open", done)).then(() => true);
            }"""
        )
        shop.display.alerts.add([on_many(2)])
        page.evaluate("window.told.then(() => true)")
        page.mouse.up()
        expect(page.get_by_role("heading", level=1)).to_have_text(EVIL)
        page.go_back()
        expect(page.locator(".alerts li")).to_have_count(2)


def _surprises(state: dict[str, object]) -> str:
    values = state["item_p_values"]
    assert isinstance(values, list)
    assert len(values) == 4
    return "Surprise of the last clicks: " + ", ".join(f"{abs(-log10(p)):.1f}" for p in reversed(values))


def test_errors_are_shown_with_their_reason(shop: Shop, browser: Browser) -> None:
    """A user that nobody knows, by the form; and a worker that is not ready."""
    with opened(browser, shop.port) as seen:
        page = seen.page
        seen.expected += ["status of 404", "status of 503"]
        page.get_by_label("User", exact=True).fill("nobody")
        page.get_by_label("User", exact=True).press("Enter")
        expect(page.get_by_role("alert").last).to_contain_text("no state of this user")
        shop.desk.open = None
        expect(page.get_by_role("alert").last).to_contain_text("the worker loads its model")
        shop.display.health.doing = lambda: Doing("recovering")
        expect(page.get_by_role("status")).to_contain_text("read from the changelog")


def test_the_page_goes_on_after_a_restart_of_the_worker(shop: Shop, browser: Browser) -> None:
    """Meanwhile it says that the worker is away. Alerts of before stay, and new ones come, each once."""
    shop.display.alerts.add([anomaly(1)])
    with opened(browser, shop.port) as seen:
        page = seen.page
        seen.expected.append("net::ERR_")
        rows = page.locator(".alerts li")
        expect(rows).to_have_count(1)
        shop.stop()
        expect(page.get_by_role("alert")).to_contain_text("does not answer. Trying again")
        expect(page.get_by_role("status")).to_have_text("away")
        shop.display.alerts.add([anomaly(2, "ben")])
        shop.start()
        expect(page.get_by_role("status")).to_have_text("ready")
        expect(page.locator("#lost")).to_be_hidden()
        expect(rows).to_have_count(2)
        shop.display.alerts.add([anomaly(3, "cleo")])
        expect(rows).to_have_count(3)
        assert [row.get_by_role("link").inner_text() for row in rows.all()] == ["cleo", "ben", "ann"]
        assert not re.search(r"\d alerts", page.locator(".alerts").inner_text())


def test_a_worker_without_answers_shows_its_figures_and_how_to_get_the_rest(model_dir: Path, browser: Browser) -> None:
    """It asks for no user."""
    shop = Shop(model_dir, answers=False)
    with opened(browser, shop.port) as seen:
        section(seen.page, "Throughput")("125 clicks/s")
        section(seen.page, "Partitions")("7 (this one)")
        section(seen.page, "Latest episodes")("Start it with --http-answers")
        section(seen.page, "By the hour")("Start it with --behaviour-topic")
    shop.stop()


def test_a_phone_dark_mode_and_reduced_motion(shop: Shop, browser: Browser) -> None:
    """At 390 pixels nothing is wider than the window, also with an id without spaces; nothing moves."""
    longest = "x" * 256
    shop.display.alerts.add([anomaly(1, longest), anomaly(2, "ann")])
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "reduced_motion": "reduce"}
    with opened(browser, shop.port, **phone) as seen:
        page = seen.page
        expect(page.locator(".alerts li")).to_have_count(2)
        shop.display.hours.add([behaviour(0, 0, 10, 5, 4, **{longest: 3})])
        expect(page.get_by_role("region", name="By the hour").locator("li")).to_have_count(1)
        assert no_wider_than_the_window(page)
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, back.removeprefix("rgb(").rstrip(")").split(","))) < 60
        shop.display.alerts.add([anomaly(3, "ben")])
        new = page.locator(".alerts li.new", has_text="ben")
        new.wait_for()
        assert new.evaluate("one => getComputedStyle(one).animationName") == "none"
        page.get_by_role("link", name="ann").click()
        expect(page.locator(".items li").first).to_be_visible()
        assert no_wider_than_the_window(page)


def test_the_policy_stops_what_the_page_does_not_have(shop: Shop, browser: Browser) -> None:
    """A script in the HTML, and a request to another address: both are refused by the browser."""
    with opened(browser, shop.port) as seen:
        page = seen.page
        page.evaluate("""() => { const s = document.createElement("script"); s.textContent = "window.evil = 1";
                         document.body.append(s); }""")
        assert page.evaluate("window.evil") is None
        assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
        assert [("Content Security Policy" in error) for error in seen.errors] == [True] * len(seen.errors) != []
        seen.errors.clear()
        seen.hosts.discard("127.0.0.1:9")
