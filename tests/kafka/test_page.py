"""The page of a real worker on a real Kafka, in a real browser."""

import signal

from playwright.sync_api import expect

from tests.browser import chromium, opened
from tests.kafka.lane import Lane, bot, clicks, wait_until
from tests.kafka.scrape import free_port, get, value, wait_for_phase


def test_the_page_shows_what_a_worker_decides_also_after_a_restart(lane: Lane) -> None:
    """The bot's alert comes to an open page, and his page has his clicks. After kill -9 and a restart the page goes on
    by itself, and the user's state is the recovered one."""
    port = free_port()
    options = {"worker_id": "a", "http_port": port, "http_answers": True, "http_advertise": f"127.0.0.1:{port}"}
    worker = lane.start(**options)
    wait_for_phase(port, "assigned")
    with chromium() as browser, opened(browser, port) as seen:
        page = seen.page
        seen.expected += ["net::ERR_", "status of 503"]  # of the restart
        expect(page.get_by_role("status")).to_have_text("ready")
        expect(page.get_by_text("No alert yet.")).to_be_visible()
        lane.produce([*clicks(500, users=20), *bot()])
        row = page.locator(".alerts li").filter(has_text="bot").first
        expect(row).to_contain_text("of i7")
        wait_until(lambda: value(port, "eddy_messages_total") == 512, "all clicks are decided")
        expect(page.get_by_role("region", name="Throughput")).to_contain_text("512 decided")
        expect(page.get_by_role("region", name="Partitions").locator("tbody tr")).to_have_count(4)
        row.get_by_role("link").click()
        expect(page.locator(".path li")).to_have_text(["i7"] * 12)

        worker.end(signal.SIGKILL)
        expect(page.locator("#lost")).to_be_visible()
        lane.start(**options)
        wait_until(lambda: get(port, "/readyz")[0] == 200, "the worker is ready again")
        expect(page.locator("#lost")).to_be_hidden()
        expect(page.get_by_role("status")).to_have_text("ready")
        expect(page.locator(".path li")).to_have_text(["i7"] * 12)
        page.go_back()
        expect(page.get_by_role("region", name="Throughput")).to_contain_text("0 decided")
