"""The page of a real worker on a real Kafka, in a real browser."""

import signal

import msgspec
from playwright.sync_api import expect

from stream.kafka.topics import create_topics
from tests.browser import chromium, opened
from tests.kafka.lane import NOW_MS, Lane, bot, clicks, wait_until
from tests.kafka.scrape import free_port, get, value, wait_for_phase


def test_the_page_shows_what_a_worker_decides_also_after_a_restart(lane: Lane) -> None:
    """The bot's alert comes to an open page, his page has his clicks, and an hour is there when it is over. After
    kill -9 and a restart the page goes on by itself, and the user's state is the recovered one."""
    port = free_port()
    hours = f"{lane.name}-hours"
    create_topics(lane.broker, msgspec.structs.replace(lane.topics, behaviour=hours), lane.partitions, 1)
    options = {"worker_id": "a", "http_port": port, "http_answers": True, "http_advertise": f"127.0.0.1:{port}"}
    options |= {"behaviour_topic": hours}
    worker = lane.start(**options)
    wait_for_phase(port, "assigned")
    with chromium() as browser, opened(browser, port) as seen:
        page = seen.page
        seen.expected += ["net::ERR_", "status of 503"]  # of the restart
        expect(page.get_by_role("status")).to_have_text("ready")
        expect(page.get_by_text("No alert yet.")).to_be_visible()
        lane.produce([*clicks(500, users=20), *bot()])
        later = [{"user_id": f"user{n}", "item_id": "i1", "timestamp": NOW_MS + 600_000} for n in range(20)]
        lane.produce([(one["user_id"].encode(), msgspec.json.encode(one)) for one in later])  # the hour is over
        row = page.locator(".alerts li").filter(has_text="bot").first
        expect(row).to_contain_text("of i7")
        wait_until(lambda: value(port, "eddy_messages_total") == 532, "all clicks are decided")
        expect(page.get_by_role("region", name="Throughput")).to_contain_text("532 decided")
        expect(page.get_by_role("region", name="Partitions").locator("tbody tr")).to_have_count(4)
        of_hour = page.get_by_role("region", name="By the hour")
        expect(of_hour).to_contain_text("from 4 partitions of this worker: 512 clicks, 21 users, 21 sessions began")
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
        expect(of_hour).to_contain_text("No hour is over yet since this worker began")
