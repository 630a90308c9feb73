"""The HTTP port of a worker on a real Kafka: the metrics are what was sent, and health is what is true."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.apache_kafka import ApacheKafka, KafkaUnavailable
from tests.kafka.lane import Lane, bot, clicks, fault, wait_until
from tests.kafka.scrape import free_port, get, health, scrape, value, wait_for_phase
from tests.kafka_lane import REQUIRED

UNKEYED = b'{"user_id": "ann", "item_id": "i1", "timestamp": 1760000000000}'
BAD = [(b"ann", b"{", "not_json"), (None, UNKEYED, "empty_key"), (b"ann", b"", "empty_value")]
GAP_MS = 30 * 60 * 1000


def sessions(values: list[bytes]) -> int:
    """Sessions in clicks that are in order: a user's first click, and each one after half an hour."""
    last: dict[str, int] = {}
    found = 0
    for event in map(json.loads, values):
        before = last.get(event["user_id"])
        found += before is None or event["timestamp"] - before >= GAP_MS
        last[event["user_id"]] = max(event["timestamp"], before or 0)
    return found


def test_the_metrics_of_a_worker_are_what_was_sent(lane: Lane) -> None:
    """Good clicks and bad messages, a bot and a fault of the front end: every figure is counted from the messages and
    from what the worker has written. A second worker with the same port ends with 2 before it joins."""
    port = free_port()
    worker = lane.start(http_port=port, alpha=0.01)
    wait_for_phase(port, "assigned")
    good = [*clicks(3_000), *bot(), *fault()]
    bad = [BAD[n % 3] for n in range(70)]
    lane.produce(good)
    lane.produce((key, text) for key, text, _ in bad)
    total = len(good) + len(bad)
    wait_until(lambda: value(port, "eddy_messages_total") == total, lambda: f"{total} messages:\n{worker.log}")

    wait_until(lambda: [value(port, "eddy_lag", partition=str(n)) for n in range(4)] == [0.0] * 4, "no lag")

    seen = scrape(port)
    values = [text for _, text in good if text]
    events = [json.loads(text) for text in values]
    unknown = [event for event in events if int(event["item_id"][1:]) >= 300]
    mistyped = [event for event in events if event.get("event_type") == "veiw"]
    assert len(mistyped) == 600
    assert seen["eddy_clicks_total", ()] == len(good)
    for reason, count in Counter(reason for _, _, reason in bad).items():
        assert seen["eddy_dead_letters_total", (("reason", reason),)] == count
    assert seen["eddy_unknown_items_total", ()] == len(unknown)
    assert seen["eddy_unknown_event_types_total", ()] == len(mistyped)
    clicked = Counter(event["user_id"] for event in events)
    rows = {message.key().decode(errors="replace"): message.value() for message in lane.read(lane.topics.changelog)}
    users = {key for key, row in rows.items() if row is not None} & clicked.keys()
    assert seen["eddy_users", ()] == len(users)
    once = {user for user, count in clicked.items() if count == 1}
    assert clicked.keys() - users <= once, "only a user with one click is forgotten after the month before the fault"
    assert seen["eddy_sessions_total", ()] == sessions(values)
    assert seen["eddy_partitions", ()] == 4
    assert seen["eddy_latency_seconds_count", ()] == seen["eddy_cycle_messages_sum", ()] == total
    committed = seen["eddy_transactions_total", (("outcome", "committed"),)]
    assert committed == seen["eddy_cycle_messages_count", ()] >= 2
    stages = {dict(labels)["stage"] for name, labels in seen if name == "eddy_stage_seconds_count"}
    assert stages == {"decode", "engine", "encode", "produce", "commit", "apply"}
    assert [seen["eddy_stage_seconds_count", (("stage", stage),)] for stage in stages] == [committed] * 6
    assert 0 < sum(seen["eddy_stage_seconds_sum", (("stage", stage),)] for stage in stages) < 120
    assert (seen["eddy_ready", ()], seen["eddy_kafka_up", ()], seen["eddy_alpha", ()]) == (1, 1, 0.01)
    [info] = [dict(labels) for name, labels in seen if name == "eddy_info"]
    assert (info["model"], info["group"], info["provider"]) == ("random/1", lane.name, "CPUExecutionProvider")
    judged, hits = seen["eddy_lists_judged_total", ()], seen["eddy_list_hits_total", ()]
    assert 0 <= hits <= judged <= len(good) / 4  # one user in 32

    written = [json.loads(message.value() or b"") for message in lane.read(lane.topics.anomalies)]
    alerts = {dict(of)["statistic"]: n for (name, of), n in seen.items() if name == "eddy_alerts_total" and n}
    assert alerts == Counter(next(iter(alert["statistics"]), "none") for alert in written)
    assert seen["eddy_episodes_total", ()] == sum(alert["id"] == alert["episode"] for alert in written) >= 1
    opened = [json.loads(message.value() or b"") for message in lane.read(lane.topics.system_alerts)]
    signs = {dict(of)["sign"]: n for (name, of), n in seen.items() if name == "eddy_system_alerts_total" and n}
    assert signs == Counter(alert["sign"] for alert in opened if alert["phase"] == "opened")
    assert signs["unknown event types"] == 4
    letters = [json.loads(message.value() or b"") for message in lane.read(lane.topics.recommendations)]
    unusual = sum(letter["p_value"] <= 0.01 for letter in letters)
    assert seen["eddy_unusual_clicks_total", ()] == unusual >= 1

    second = lane.start(http_port=port)
    assert second.process.wait(timeout=60) == 2
    assert second.log.splitlines()[-1].startswith(f"eddy: port {port} of 127.0.0.1 cannot be opened (")
    assert worker.end(signal.SIGTERM) == 0, worker.log


def test_the_metrics_of_two_workers_add_up_and_follow_the_partitions(lane: Lane) -> None:
    """Each shows its own partitions and users. When one of them leaves, all are with the worker that stays."""
    sent = clicks(2_000)
    lane.produce(sent)
    users = len({key for key, _ in sent})
    ports = [free_port(), free_port()]
    first = lane.start(worker_id="a", http_port=ports[0])
    wait_for_phase(ports[0], "assigned")
    second = lane.start(worker_id="b", http_port=ports[1])
    wait_for_phase(ports[1], "assigned")
    lane.wait_for_clicks()

    def shown(name: str) -> list[float]:
        return [value(port, name) or 0.0 for port in ports]

    wait_until(lambda: shown("eddy_partitions") == [2.0, 2.0], "two partitions each")
    wait_until(lambda: sum(shown("eddy_users")) == users and all(shown("eddy_users")), "each user once")
    held = [{dict(labels)["partition"] for name, labels in scrape(port) if name == "eddy_lag"} for port in ports]
    assert held[0] | held[1] == set("0123")
    assert not held[0] & held[1]
    assert second.end(signal.SIGTERM) == 0, second.log
    wait_until(lambda: value(ports[0], "eddy_partitions") == 4, "the worker that stays has all partitions")
    wait_until(lambda: value(ports[0], "eddy_users") == users, "and all users")
    assert (value(ports[0], "eddy_rebalances_total") or 0) >= 3
    assert first.end(signal.SIGTERM) == 0, first.log


@pytest.fixture
def broker() -> Iterator[ApacheKafka]:
    """A broker that the test may stop."""
    if "EDDY_TEST_KAFKA" in os.environ:
        pytest.skip("a broker that is not ours is not killed")
    try:
        with ApacheKafka() as started:
            yield started
    except KafkaUnavailable as exc:
        if REQUIRED:
            pytest.fail(f"EDDY_REQUIRE_KAFKA=1, but there is no real Kafka: {exc}", pytrace=False)
        pytest.skip(f"THE KAFKA LANE DID NOT RUN: {exc}")


def test_health_tells_the_truth_through_recovery_outage_and_end(
    broker: ApacheKafka, name: str, model: Path, tmp_path: Path
) -> None:
    """A worker is not ready before it has its states; with them it is; a spare is, too. While the broker is down all
    workers live and none is ready, also one that starts then. They are ready again when it is back, and each line of
    their logs is JSON."""
    lane = Lane(broker.address, name, model, tmp_path, partitions=1)
    lane.create()
    try:
        sent = clicks(2_000)
        users = len({key for key, _ in sent})
        lane.produce(sent)
        ports = [free_port() for _ in range(3)]
        first = lane.start(worker_id="first", http_port=ports[0], log_format="json")
        seen = set()

        def ready() -> bool:
            status, facts = health(ports[0], "/readyz")
            if status:
                assert (status == 200) == facts["ready"] == (facts["reason"] == "")
                assert get(ports[0], "/livez")[0] == 200
                seen.add(facts["phase"])
            return status == 200

        wait_until(ready, "the first worker is ready", every_s=0.005)
        assert {"starting", "recovering"} <= seen <= {"starting", "joining", "rebalancing", "recovering", "assigned"}
        lane.wait_for_clicks()
        wait_until(lambda: value(ports[0], "eddy_users") == users, "the users of the clicks are shown")
        assert first.end(signal.SIGTERM) == 0, first.log

        again = lane.start(worker_id="first", http_port=ports[0], log_format="json")
        status, facts = wait_for_phase(ports[0], "assigned")
        assert (status, facts["partitions"]) == (200, 1)
        wait_until(lambda: value(ports[0], "eddy_users") == users, "the users of the recovery are shown")
        assert (value(ports[0], "eddy_recovered_rows_total") or 0) >= users
        assert value(ports[0], "eddy_recovery_seconds_count") == 1
        spare = lane.start(worker_id="spare", http_port=ports[1], log_format="json")
        status, facts = wait_for_phase(ports[1], "spare")
        assert (status, facts["partitions"], facts["ready"]) == (200, 0, True)

        broker.kill()
        starting = lane.start(worker_id="starting", http_port=ports[2], log_format="json")
        for port in ports:
            wait_until(lambda port=port: health(port, "/readyz")[0] == 503, "not ready in an outage")
        wait_until(lambda: value(ports[0], "eddy_kafka_up") == 0, "the metric shows the outage")
        for port in ports:
            status, facts = health(port, "/readyz")
            assert (status, facts["reason"], facts["kafka_answers"]) == (503, "Kafka does not answer", False)
            assert get(port, "/livez")[0] == 200
        broker.restart()
        for port in ports:
            wait_until(lambda port=port: health(port, "/readyz")[0] == 200, "ready after the outage")
        assert (value(ports[0], "eddy_kafka_connections_lost_total") or 0) >= 1
        for worker in (again, spare, starting):
            assert worker.end(signal.SIGTERM) == 0, worker.log
        for worker in lane.workers:
            for line in worker.log.splitlines():
                assert {"time", "level", "logger", "message"} <= json.loads(line).keys(), line
    finally:
        lane.end_all()


def test_a_worker_that_cannot_start_says_why_as_json(lane: Lane) -> None:
    """The last line of a JSON log is JSON, too, and has the reason that a text log has."""
    worker = lane.start(log_format="json", changelog_topic=f"{lane.name}-missing")
    assert worker.process.wait(timeout=60) == 2
    lines = [json.loads(line) for line in worker.log.splitlines()]
    assert lines[-1]["level"] == "CRITICAL"
    assert lines[-1]["message"].startswith("eddy: ")
    assert f"{lane.name}-missing" in lines[-1]["message"]
