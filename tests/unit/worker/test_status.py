"""The status line has the figures; warnings are early, have the remedy, and are not repeated at once."""

import hashlib
import logging
import re
import zlib
from collections.abc import Callable

import pytest

from stream.kafka.partitioners import KeySample, murmur2
from stream.meter import Meter
from stream.settings import Topics
from stream.worker.observe import Example
from stream.worker.status import CHECK_S, MOST_LEFT_OUT, REPEAT_S, SIGN_OF_LIFE_S, STATUS_S, Line, Status

USERS = [f"user{n}".encode() for n in range(400)]


class Worker:
    """A status and the figures it reads, and a clock that the test moves."""

    def __init__(self, partitions: int = 4) -> None:
        self.meter = Meter()
        self.key_sample = KeySample(partitions)
        self.examples: dict[str, Example] = {}
        self.status = Status(self.meter, self.key_sample, self.examples, Topics(), ("view", "cart"), 0.0)
        self.now_s = 0.0
        self.lag = 0

    def clicks(self, n: int, items: int = 0, types: int = 0, **dead: int) -> None:
        """Count n clicks, some with unknown items and types, and dead letters by reason."""
        meter = self.meter
        meter.count("messages", n + sum(dead.values()))
        meter.count("clicks", n)
        meter.count("unknown_items", items)
        meter.count("unknown_event_types", types)
        for reason, count in dead.items():
            meter.count("dead_letters", count, reason=reason)
            self.examples.setdefault(reason, Example(f"detail of {reason}", ("item", "user_id")))

    def dropped(self, n: int) -> None:
        """Count n messages that the mapping leaves out, because they have no item."""
        self.meter.count("messages", n)
        self.meter.count("dropped", n, reason="no_value")

    def keys(self, partitioner: Callable[[bytes], int], partitions: int = 4) -> None:
        for offset, key in enumerate(USERS):
            self.key_sample.add(key, partitioner(key) % partitions, offset)

    def run(self, seconds: float, each_check: Callable[[], None] = lambda: None) -> list[Line]:
        """The lines logged in this many seconds; `each_check` is called before every check."""
        lines: list[Line] = []
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += CHECK_S
            each_check()
            lines += self.status.lines(self.now_s, self.lag)
        return lines


def warnings(lines: list[Line]) -> list[str]:
    return [line.text for line in lines if line.level == logging.WARNING]


def test_a_clock_that_is_behind_is_a_warning() -> None:
    """If most messages are from later than now, one line says by how much; a few early ones are a producer's matter."""
    worker = Worker()
    worker.clicks(100)
    worker.meter.count("early", 40)
    worker.meter.level("early_s", 3600.0)
    assert not warnings(worker.run(CHECK_S))
    worker.meter.count("early", 20)
    [line] = warnings(worker.run(CHECK_S))
    assert "clock is behind" in line
    assert "behind_s=3600" in line


def test_the_status_line_holds_the_figures_of_its_interval() -> None:
    """Rates, shares and quantiles are of the last 30 s; lag and users are current."""
    worker = Worker()
    meter = worker.meter
    worker.clicks(5_000, not_json=100)
    meter.observe("latency", [9.0] * 100)
    worker.run(STATUS_S)
    worker.clicks(3_000, items=30, types=600, not_json=2, empty_key=5)
    meter.count("alerts", 4)
    meter.count("system_alerts", 1)
    meter.count("left_out", 3, field="category")
    meter.count("left_out", 31, field="price")
    meter.level("users", 77)
    meter.observe("latency", [0.05] * 90 + [1.0] * 10)
    worker.lag = 12
    [line] = worker.run(STATUS_S)
    assert line.level == logging.INFO
    age = re.search(r"age_p50_ms=(\d+) age_p99_ms=(\d+) ", line.text)
    assert age is not None
    assert int(age[1]) == pytest.approx(50, rel=0.1)
    assert int(age[2]) == pytest.approx(1000, rel=0.1)
    assert line.text.replace(age[0], "") == (
        "status: clicks_per_s=100.0 lag=12 repeats=0 dropped=0 dead_letters=7 reasons=empty_key:5,not_json:2 "
        "left_out=price:31,category:3 unknown_items=1.0% unknown_event_types=20.0% alerts=4 system_alerts=1 users=77"
    )


def test_an_idle_worker_gives_a_sign_of_life_only() -> None:
    """In an idle hour there is a line every 10 minutes, with `none` for missing figures."""
    lines = Worker().run(6 * SIGN_OF_LIFE_S)
    assert len(lines) == 6
    assert "clicks_per_s=0.0 lag=0 age_p50_ms=none" in lines[0].text
    assert "unknown_items=none" in lines[0].text


def test_a_worker_that_falls_behind_without_deciding_logs_it() -> None:
    """A growing lag is logged even if no message was decided."""
    worker = Worker()

    def more() -> None:
        worker.lag += 10

    assert len(worker.run(4 * STATUS_S, more)) == 4


def test_after_an_idle_time_the_rate_is_that_of_the_last_interval() -> None:
    """The rate after five idle minutes does not include these minutes."""
    worker = Worker()
    assert worker.run(10 * STATUS_S) == []
    worker.clicks(300)
    [line] = worker.run(STATUS_S)
    assert "clicks_per_s=10.0 " in line.text


def test_refused_messages_are_reported_within_seconds_with_the_commonest_reason() -> None:
    """3,000 refused messages: the first check names the reason, its detail and the fields seen."""
    worker = Worker()
    worker.clicks(0, wrong_fields=2_900, not_json=100)
    [text] = warnings(worker.run(CHECK_S))
    assert "dead_letters=3000 messages=3000 commonest_reason=wrong_fields with_that_reason=2900" in text
    assert "detail of wrong_fields" in text
    assert "fields seen: item, user_id;" in text
    assert Topics().dead_letters in text


def test_a_model_that_fails_is_not_reported_as_an_error_of_the_producer() -> None:
    """If the model fails on valid clicks, the advice is about the model."""
    worker = Worker()
    worker.clicks(10, model_failed=90)
    [text] = warnings(worker.run(CHECK_S))
    assert "train the model again" in text
    assert "producer" not in text


def test_a_producer_that_breaks_after_a_healthy_hour_is_noticed() -> None:
    """Earlier valid messages do not hide refused ones."""
    worker = Worker()
    assert warnings(worker.run(3_600, lambda: worker.clicks(2_000))) == []
    [text] = warnings(worker.run(6, lambda: worker.clicks(1_000, wrong_fields=1_000)))
    assert "wrong_fields" in text


def test_a_slow_stream_of_refused_messages_is_noticed() -> None:
    """One message a minute, all of them refused: the tenth one leads to the warning."""
    worker = Worker()
    for minute in range(9):
        worker.clicks(0, not_json=1)
        assert warnings(worker.run(60)) == [], minute
    worker.clicks(0, not_json=1)
    assert len(warnings(worker.run(60))) == 1


@pytest.mark.parametrize(("good", "bad", "warned"), [(900, 99, 0), (900, 101, 1), (0, 9, 0), (0, 10, 1), (5, 5, 0)])
def test_a_tenth_of_the_messages_is_the_limit(good: int, bad: int, warned: int) -> None:
    """Up to a tenth of the messages may be dead letters, and a few messages are too few for a warning."""
    worker = Worker()
    worker.clicks(good, not_json=bad)
    assert len(warnings(worker.run(STATUS_S))) == warned


def test_a_warning_is_repeated_while_its_condition_is_true() -> None:
    """An hour of refused messages: one warning in five minutes. When the producer is corrected, there are no more."""
    worker = Worker()
    lines = worker.run(3_600, lambda: worker.clicks(10, not_json=10))
    assert len(warnings(lines)) == 3_600 / REPEAT_S
    worker.run(60, lambda: worker.clicks(20))
    assert warnings(worker.run(3_600, lambda: worker.clicks(20))) == []


def test_a_second_reason_is_a_second_warning() -> None:
    """A second broken producer is not hidden for five minutes by the first."""
    worker = Worker()
    worker.clicks(0, not_json=1_000)
    assert len(warnings(worker.run(20))) == 1
    worker.clicks(0, empty_key=5_000)
    [text] = warnings(worker.run(20))
    assert "empty_key" in text


def test_unknown_items_and_event_types_cause_warnings() -> None:
    """More than half of the clicks on unknown items or of unknown types: one line each, with the remedy."""
    worker = Worker()
    worker.clicks(100, items=51, types=50)
    [items] = warnings(worker.run(CHECK_S))
    assert "unknown=51 clicks=100" in items
    assert "items.json" in items
    worker.clicks(100, items=0, types=60)
    [types] = warnings(worker.run(CHECK_S))
    assert "unknown=110 clicks=200 known_event_types=view,cart" in types


def test_a_few_unknown_clicks_are_no_warning() -> None:
    """19 clicks are too few for this warning."""
    worker = Worker()
    worker.clicks(19, items=19, types=19)
    assert warnings(worker.run(STATUS_S)) == []


def test_two_partitioners_cause_a_warning_with_an_example_user() -> None:
    """Both are named with their counts, and a user is named by a hash that an operator can compute."""
    worker = Worker()
    worker.keys(murmur2)
    assert warnings(worker.run(CHECK_S)) == []
    worker.keys(zlib.crc32)
    [text] = warnings(worker.run(CHECK_S))
    assert "murmur2 (Java clients)" in text
    assert "crc32 (librdkafka's default)" in text
    assert re.search(r"murmur2=\d+ crc32=\d+ ", text)
    example = re.search(r"user=(\w+) partition=(\d) offset=(\d+) other_partition=(\d) other_offset=(\d+)", text)
    assert example is not None
    [user] = [key for key in USERS if hashlib.sha256(key).hexdigest()[:12] == example[1]]
    assert int(example[2]) == zlib.crc32(user) % 4
    assert int(example[4]) == murmur2(user) % 4
    assert "user" + user.decode()[4:] not in text


def test_after_a_correction_the_warning_ends() -> None:
    """Once all producers agree the warning is not repeated more than once."""
    worker = Worker()
    worker.keys(murmur2)
    worker.keys(zlib.crc32)
    worker.run(CHECK_S)
    assert len(warnings(worker.run(3_600, lambda: worker.keys(murmur2)))) <= 1


def test_a_custom_partitioner_gives_one_info_line() -> None:
    """Consistent but unknown: one INFO line in an hour, and no warning."""
    worker = Worker()
    lines = worker.run(3_600, lambda: worker.keys(lambda key: int(key[4:])))
    assert warnings(lines) == []
    assert len([line for line in lines if line.kind == "unknown partitioner"]) == 1


def test_one_partition_causes_no_warning() -> None:
    """With one partition every partitioner is right."""
    worker = Worker(partitions=1)
    assert worker.run(60, lambda: worker.keys(zlib.crc32, 1)) == []


def test_a_mapping_that_leaves_out_every_message_causes_a_warning() -> None:
    """Messages without an item are no dead letters: a field with another name would otherwise end all lists unseen."""
    worker = Worker()
    worker.clicks(50)
    worker.dropped(MOST_LEFT_OUT)
    assert not warnings(worker.run(CHECK_S)), "there are clicks among them"
    worker.dropped(MOST_LEFT_OUT - 1)
    assert not warnings(worker.run(CHECK_S))
    worker.dropped(1)
    [line] = warnings(worker.run(CHECK_S))
    assert f"topic=clicks left_out={MOST_LEFT_OUT} reasons=no_value:{MOST_LEFT_OUT};" in line
    assert warnings(worker.run(REPEAT_S)) == [line]
    worker.clicks(1)
    assert not warnings(worker.run(2 * REPEAT_S))
