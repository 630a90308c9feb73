"""The loop of `eddy sink webhook` with a source of this test and a real HTTP server: order, pauses, the limit a minute.

tests/kafka/test_webhook.py has it on a real Kafka, with processes that are killed.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator
from threading import Event as Flag
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from stream.errors import ConfigError
from stream.events import Partition
from stream.places.chat import FORMS
from stream.places.webhook import Webhook
from stream.sinks import patience, post
from stream.sinks.patience import Patience
from stream.sinks.post import Minute, Posted, Posting
from tests.receiver import Answer, Receiver, alert, system_alert

A0, A1, S0 = Partition("anomalies", 0), Partition("anomalies", 1), Partition("system-alerts", 0)


def message(partition: Partition, offset: int, value: Any) -> Any:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    found = {"topic": partition.topic, "partition": partition.number, "offset": offset, "value": raw}
    return SimpleNamespace(**{name: lambda one=one: one for name, one in found.items()})


class Group:
    """A GroupSource with these messages: what is committed is what the next process begins at.

    again    messages that come after a rebalance, which is when there are no others
    pauses   how long each one would have been, s
    on_pause, on_take  called meanwhile, as when a signal comes or partitions go
    """

    def __init__(self, messages: Iterable[Any] = ()) -> None:
        self.left, self.starts, self.committed = list(messages), dict[Partition, int](), dict[Partition, int]()
        self.stale, self.assigned, self.pauses = True, 0, list[float]()
        self.again: list[Any] = []
        self._done: dict[Partition, int] = {}
        self.on_pause = self.on_take = lambda: None

    @property
    def ended(self) -> bool:
        return not self.left and not self.again and not self.stale

    def resume(self) -> None:
        self.stale = False

    def take(self, most: int, timeout_s: float) -> list[Any]:
        self.on_take()
        if not self.left and self.again:
            self.left, self.again, self.stale, self.assigned = self.again, [], True, self.assigned + 1
            return []
        found, self.left = self.left[:most], self.left[most:]
        return found

    def done(self, partition: Partition, end: int) -> None:
        assert end > self._done.get(partition, 0), "the offsets of a partition go up"
        self._done[partition] = end

    def commit(self) -> None:
        self.committed |= self._done

    def pause(self, most_s: float) -> None:
        self.pauses.append(most_s)
        self.on_pause()

    def behind(self, at: Any) -> int:
        return 0

    def close(self) -> None:
        self.commit()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def posting(source: Group, receiver: Receiver, **other: Any) -> Posting:
    outputs = {"anomalies": "anomalies", "system-alerts": "system-alerts"}
    given: dict[str, Any] = {"form": FORMS["json"], "only_opened": False, "minute": Minute(math.inf), "stopped": Flag()}
    return Posting(source, Webhook(receiver.url), outputs, **given | other)  # type: ignore[arg-type]


def run(source: Group, receiver: Receiver, **other: Any) -> Posted:
    return posting(source, receiver, **other).run(once=True)


def texts(receiver: Receiver) -> list[str]:
    return [json.loads(request.body)["text"] for request in receiver.requests]


def test_each_event_is_posted_as_it_is_on_the_topic_in_order(receiver: Receiver) -> None:
    """Then its offset is committed. What is no event is counted with a line, and what is refused too."""
    values = [json.dumps(alert(n), indent=1).encode() for n in range(3)]
    receiver.answers = [Answer(), Answer(422, body=b"no such user"), Answer()]
    source = Group([message(A0, 5, values[0]), message(A1, 0, values[1]), message(A0, 6, b"\xff{"),
                    message(A0, 7, {}), message(A0, 8, values[2])])  # fmt: skip
    done = run(source, receiver)
    assert [(one.key, one.body) for one in receiver.requests] == [
        ("anomalies-0-5", values[0]), ("anomalies-1-0", values[1]), ("anomalies-0-8", values[2]),
    ]  # fmt: skip
    assert (done.written, done.refused, done.left_out) == ({"anomalies": 2, "system-alerts": 0}, 1, 2)
    assert source.committed == {A0: 9, A1: 1}
    assert done.offsets == {"anomalies-0": 9, "anomalies-1": 1}


def test_a_refused_event_and_garbage_are_named_in_the_log(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """With the answer, and in one line: an id may hold anything."""
    receiver.answers = [Answer(400, body=b"invalid_payload")]
    run(Group([message(A0, 0, alert(1, id="a\nb", user="ann"))]), receiver)
    run(Group([message(A0, 1, b"{")]), receiver)
    refused, left_out = [record.getMessage() for record in caplog.records]
    assert refused == (
        f"{receiver.where} refuses an event, it is left out: id=a?b message=anomalies-0-0 "
        "answer=status 400: invalid_payload"
    )
    assert left_out.startswith("message left out, it is no anomalies of this Eddy version: message=anomalies-0-1")


def test_an_event_is_posted_until_the_receiver_has_it(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """With growing pauses, or those that the receiver asks for; the next event waits. The log has begin and end."""
    caplog.set_level(logging.WARNING)
    receiver.answers = [Answer(500), Answer(503), Answer(429, {"Retry-After": "30"}), Answer(502)]
    receiver.answers += [Answer(500, {"Retry-After": "999999"})]
    source = Group([message(A0, 0, alert(0)), message(A0, 1, alert(1))])
    found = posting(source, receiver)
    found._longest_s = post.LONGEST_ASKED_S
    done = found.run(once=True)
    assert receiver.keys == ["anomalies-0-0"] * 6 + ["anomalies-0-1"]
    assert source.pauses == [1, 2, 30, 8, 60]  # with --once no longer than it waits in all
    assert (done.written["anomalies"], done.refused) == (2, 0)
    away, back = [record.getMessage() for record in caplog.records]
    assert away == f"{receiver.where} does not answer, eddy sink waits for it: waited_s=0 reason=status 500: ok"
    assert back == f"{receiver.where} answers again: waited_s=0"


def test_as_a_service_a_pause_may_be_an_hour_and_grows_to_a_minute(receiver: Receiver) -> None:
    """Without --once it waits as long as it takes."""
    receiver.answers = [Answer(503) for _ in range(8)] + [Answer(429, {"Retry-After": "999999"}), Answer()]
    source, stopped = Group([message(A0, 0, alert(0))]), Flag()
    source.on_take = lambda: None if source.left else stopped.set()
    posting(source, receiver, stopped=stopped).run(once=False)
    assert source.pauses == [1, 2, 4, 8, 16, 32, 60, 60, 3600]
    assert source.committed == {A0: 1}


def test_once_waits_a_minute_for_the_receiver(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cron starts must end. The event is not committed."""
    monkeypatch.setattr(post, "ONCE_S", 0.0)
    receiver.answers = [Answer(503)]
    source = Group([message(A0, 0, alert(0))])
    with pytest.raises(ConfigError, match=rf"^{receiver.where} has not answered .*status 503"):
        run(source, receiver)
    assert source.committed == {}


def test_once_waits_a_minute_in_each_outage(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in all outages together."""
    clock, source = Clock(), Group([message(A0, n, alert(n)) for n in range(3)])
    monkeypatch.setattr(post, "Patience", lambda most_s: Patience(most_s, clock))
    receiver.answers = [Answer(503), Answer()] * 3

    def pause() -> None:
        clock.now_s += 59

    source.on_pause = pause
    assert run(source, receiver).written["anomalies"] == 3


def test_sigterm_while_the_receiver_is_away_ends_it_and_commits_what_it_has(receiver: Receiver) -> None:
    """The event that it does not have comes with the next run."""
    source, stopped = Group([message(A0, n, alert(n)) for n in range(3)]), Flag()
    receiver.answers = [Answer(), Answer(500)]
    source.on_pause = stopped.set
    done = posting(source, receiver, stopped=stopped).run(once=False)
    assert (receiver.keys, source.committed, done.written["anomalies"]) == (
        ["anomalies-0-0", "anomalies-0-1"], {A0: 1}, 1,
    )  # fmt: skip


def test_an_event_whose_partition_goes_meanwhile_is_left_to_the_other_process(receiver: Receiver) -> None:
    """It is posted no more here, and nothing is committed for it."""
    source = Group([message(A0, 0, alert(0))])
    receiver.answers = [Answer(500)]

    def taken() -> None:
        source.assigned += 1

    source.on_pause = taken
    run(source, receiver)
    assert (receiver.keys, source.committed) == (["anomalies-0-0"], {})


def test_a_message_that_came_with_other_partitions_is_not_posted(receiver: Receiver) -> None:
    """It may be one of the partitions that have gone."""
    source = Group([message(A0, 0, alert(0)), message(A0, 1, alert(1))])

    def once() -> None:
        source.assigned, source.on_take = 1, lambda: None

    source.on_take = once
    run(source, receiver)
    assert receiver.keys == ["anomalies-0-1"]


def test_kafka_without_an_answer_is_asked_again_and_with_once_not_for_ever(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the other sinks do."""
    monkeypatch.setattr(patience, "PAUSE_S", 0.0)
    late, source = KafkaException(KafkaError(KafkaError._TRANSPORT)), Group([message(A0, 0, alert(0))])
    errors = [late, late]

    def resume() -> None:
        if errors:
            raise errors.pop()
        source.stale = False

    source.resume = resume  # type: ignore[method-assign]
    assert run(source, receiver).written["anomalies"] == 1
    monkeypatch.setattr(post, "ONCE_S", 0.0)
    errors.append(late)
    source.stale = True
    with pytest.raises(ConfigError, match=r"^Kafka has not answered"):
        run(source, receiver)


def test_only_the_alert_that_opens_an_episode_is_posted(receiver: Receiver) -> None:
    """Of users and of many users. The others are counted, and committed."""
    later, closed = alert(4, episode="clicks-0-3"), system_alert(9, phase="closed", p_value=None)
    messages = [
        message(A0, 0, alert(3)),
        message(A0, 1, later),
        message(S0, 0, system_alert(8)),
        message(S0, 1, closed),
    ]
    source = Group(messages)
    done = run(source, receiver, only_opened=True)
    assert receiver.keys == ["anomalies-0-0", "system-alerts-0-0"]
    assert (done.written, done.later) == ({"anomalies": 1, "system-alerts": 1}, 2)
    assert source.committed == {A0: 2, S0: 2}


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_above_the_limit_one_message_at_the_end_of_the_minute_says_how_many(receiver: Receiver) -> None:
    """Until then nothing after them is committed, so a process that is killed leaves nothing out in silence."""
    clock, source = Clock(), Group([message(A0, n, alert(n)) for n in range(5)])
    source.left += [message(A1, 0, alert(9, episode="clicks-0-8")), message(A0, 5, alert(5)), message(A0, 6, alert(6))]
    committed: list[dict[Partition, int]] = []

    def tick() -> None:
        if len(source.left) == 2:  # five alerts and a later one of an episode are taken
            found._commit()
            committed.append(dict(source.committed))
            clock.now_s += 60

    source.on_take = tick
    minute = Minute(2, clock)
    found = posting(source, receiver, form=FORMS["slack"], only_opened=True, minute=minute)
    done = found.run(once=True)
    assert committed[0] == {A0: 2}
    assert [text.split("  ")[0] for text in texts(receiver)] == [
        "clicks-0-0", "clicks-0-1", "and 4 more messages, left out because of --most-per-minute", "clicks-0-6",
    ]  # fmt: skip
    assert receiver.keys[2] == "anomalies-0-2-and-more"
    assert (done.written["anomalies"], done.over_limit, done.later) == (3, 4, 1)
    assert source.committed == {A0: 7, A1: 1}


def test_at_the_end_the_message_for_the_rest_comes_at_once(receiver: Receiver) -> None:
    """With --once, and on SIGTERM: nobody would send it later."""
    for once in (True, False):
        stopped, source = Flag(), Group([message(A0, n, alert(n)) for n in range(3)])
        source.on_take = lambda source=source, stopped=stopped: None if source.left else stopped.set()
        posting(source, receiver, form=FORMS["slack"], minute=Minute(1), stopped=stopped).run(once)
        assert texts(receiver)[-1] == "and 2 more messages, left out because of --most-per-minute"
        assert source.committed == {A0: 3}


def test_what_was_held_is_forgotten_when_partitions_come_or_go(receiver: Receiver) -> None:
    """Kafka gives these messages again, here or to another process: they would be counted twice."""
    messages = [message(A0, n, alert(n)) for n in range(3)]
    source = Group(messages)
    source.again = messages[1:]
    done = run(source, receiver, form=FORMS["slack"], minute=Minute(1))
    assert texts(receiver)[1:] == ["and 2 more messages, left out because of --most-per-minute"]
    assert (done.over_limit, source.committed) == (2, {A0: 3})


def test_a_minute_begins_with_its_first_message() -> None:
    """Not when the last one has ended."""
    clock = Clock()
    minute = Minute(2, clock)
    assert not minute.full
    minute.count()
    clock.now_s += 59
    assert not minute.full
    minute.count()
    assert minute.full
    assert not minute.over
    clock.now_s += 1
    assert minute.over
    assert not minute.full
    minute.count()
    assert not minute.full
    clock.now_s += 59.9
    minute.count()
    assert minute.full
