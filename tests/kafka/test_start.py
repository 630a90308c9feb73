"""A worker that cannot run prints one line with the remedy and exits with 2. A worker that can run starts."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from export.model.untrained import write_untrained
from stream.kafka.topics import create_topics
from stream.settings import variable
from tests.kafka.lane import ASK_S, ROOT, Lane, Worker, clicks, wait_until


def refusal(lane: Lane, **options: object) -> str:
    """Return the one line that a worker prints before it ends. Fail if there is more than one line, or if the exit code
    is not 2. A broker without time may say that it is not the coordinator: that is read again, and logged."""
    worker = lane.start(**options)
    assert worker.process.wait(timeout=30) == 2, worker.log
    lines = [line for line in worker.log.strip().splitlines() if "recovery reads again" not in line]
    assert len(lines) == 1, worker.log
    return lines[0]


def last_line(worker: Worker) -> str:
    """The last line of a worker that waits before it refuses to start."""
    assert worker.process.wait(timeout=60) == 2, worker.log
    return worker.log.strip().splitlines()[-1]


def test_missing_model_is_refused(lane: Lane, tmp_path: Path) -> None:
    """For a missing model directory the error names `eddy train`."""
    assert "eddy train" in refusal(lane, model=tmp_path / "none")


@pytest.mark.parametrize("file", ["step.onnx", "items.json", "calibration.npz", "manifest.json"])
def test_corrupt_model_is_refused(lane: Lane, tmp_path: Path, file: str) -> None:
    """For a damaged file the remedy in the error is to copy the directory again."""
    broken = tmp_path / "broken"
    shutil.copytree(lane.model, broken)
    (broken / file).write_bytes((broken / file).read_bytes()[:-20])
    assert str(broken) in refusal(lane, model=broken)


def test_foreign_directory_is_refused(lane: Lane, tmp_path: Path) -> None:
    """A directory that is not a model is refused."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").write_text('{"name": "something else"}')
    assert "manifest.json" in refusal(lane, model=tmp_path / "foreign")


def test_a_worker_waits_for_a_broker_that_nobody_has_reached(lane: Lane) -> None:
    """The broker may come later than the worker. After a second a line says what it waits for, then one says why, and
    SIGTERM ends it."""
    worker = lane.start(broker="127.0.0.1:9,no-such-host.invalid:9092")
    worker.wait_for("Kafka does not answer, Eddy waits")
    assert worker.end(signal.SIGTERM) == 0
    early, waits, ended = worker.log.strip().splitlines()
    assert "Kafka does not answer yet" in early
    assert "127.0.0.1:9: connection refused; no-such-host.invalid:9092: the name does not resolve" in waits
    assert "SIGTERM" in ended


def test_missing_topic_is_refused(lane: Lane) -> None:
    """For a missing topic the error names `eddy topics create`."""
    line = refusal(lane, recommendations_topic="nowhere")
    assert "nowhere" in line
    assert "eddy topics create" in line


def test_changelog_with_other_partitions_is_refused(lane: Lane) -> None:
    """A changelog with another number of partitions than the clicks would mix up users."""
    other = f"{lane.name}-three"
    config = {"cleanup.policy": "compact"}
    admin = AdminClient({"bootstrap.servers": lane.broker})
    admin.create_topics([NewTopic(other, 3, 1, config=config)])[other].result()
    line = refusal(lane, changelog_topic=other)
    assert "3 partitions" in line
    assert "4" in line


def test_all_that_is_wrong_with_the_topics_is_one_line(lane: Lane) -> None:
    """Partitions and cleanup policy of the changelog, and the size limit of another topic: mended in one go."""
    other = f"{lane.name}-wrong"
    admin = AdminClient({"bootstrap.servers": lane.broker})
    admin.create_topics([NewTopic(other, 3, 1)])[other].result()
    recs = f"{lane.name}-small"
    admin.create_topics([NewTopic(recs, 1, 1, config={"max.message.bytes": "5000"})])[recs].result()
    line = refusal(lane, changelog_topic=other, recommendations_topic=recs)
    assert "3 reasons: (1) " in line
    for wrong in (f"topic {other} has cleanup.policy=delete", f"topic {recs} has max", f"topic {other} has 3 part"):
        assert wrong in line


def test_changelog_that_kafka_would_delete_is_refused(lane: Lane) -> None:
    """A changelog with the default cleanup policy loses states after a week."""
    assert "cleanup.policy" in refusal(lane, changelog_topic=lane.topics.clicks, clicks_topic=lane.topics.changelog)


@pytest.mark.parametrize(
    ("setting", "value"), [("k", 0), ("broker", "nowhere"), ("session_timeout_s", 0.5), ("device", "tpu")]
)
def test_wrong_setting_is_refused(lane: Lane, setting: str, value: object) -> None:
    """An invalid setting is named in the error."""
    assert setting.replace("_", "-") in refusal(lane, **{setting: value}).replace("_", "-")


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(lane: Lane) -> None:
    """--device cuda never falls back silently to the CPU."""
    assert "cuda" in refusal(lane, device="cuda")


def test_worker_logs_its_model_provider_and_topics(lane: Lane) -> None:
    """The first line names provider, model, topics, group and worker id; SIGINT ends it cleanly."""
    worker = lane.start()
    worker.wait_for("partitions recovered")
    first = worker.log.splitlines()[0]
    for fact in ("provider=CPU", "model=random/1", f"group={lane.name}", "worker_id=0", f"clicks={lane.topics.clicks}"):
        assert fact in first
    assert worker.end(signal.SIGINT) == 0


def test_a_first_start_logs_no_warning_and_ends_on_repeated_ctrl_c(lane: Lane) -> None:
    """From first start to Ctrl-C nothing but INFO is logged, no traceback is printed, and the exit code is 0."""
    lane.produce(clicks(500))
    worker = lane.start(worker_id="a", data_dir=lane.directory / "not" / "there")
    lane.wait_for_clicks()

    def ended() -> bool:
        worker.process.send_signal(signal.SIGINT)
        return worker.process.poll() is not None

    wait_until(ended, "the worker has ended")
    assert worker.process.returncode == 0, worker.log
    assert [line for line in worker.log.splitlines() if " INFO " not in line] == []


def test_a_data_directory_that_cannot_be_made_is_refused(lane: Lane) -> None:
    """Faust keeps a directory of its own under --data-dir, also where a --worker-id is given."""
    file = lane.directory / "file"
    file.write_text("")
    assert "--data-dir" in refusal(lane, worker_id="a", data_dir=file / "data")


def test_worker_numbers_are_locked_and_used_again(lane: Lane) -> None:
    """Without --worker-id each process takes the lowest free number, and a killed worker's number is free again."""
    first, second = lane.start(), None
    first.wait_for("worker_id=0")
    second = lane.start()
    second.wait_for("worker_id=1")
    first.end(signal.SIGKILL)
    lane.start().wait_for("worker_id=0")


def test_offsets_reset_to_earlier_ones_are_refused(lane: Lane) -> None:
    """If the offsets were reset, clicks would update the states twice: the worker reports this and ends."""
    lane.produce(clicks(500))
    worker = lane.start()
    lane.wait_for_clicks()
    assert worker.end(signal.SIGTERM) == 0, worker.log
    admin = AdminClient({"bootstrap.servers": lane.broker})
    group = ConsumerGroupTopicPartitions(lane.name, [TopicPartition(lane.topics.clicks, p, 0) for p in range(4)])

    def reset() -> bool:  # refused while the static member's session lasts
        answer = admin.alter_consumer_group_offsets([group])[lane.name].result()
        return all(partition.error is None for partition in answer.topic_partitions)

    wait_until(reset, "offsets can be reset", every_s=ASK_S)
    line = refusal(lane)
    assert "offsets were reset" in line
    assert "--changelog-topic" in line


def test_changelog_of_another_group_is_refused(lane: Lane) -> None:
    """A new group with an old changelog would use states of clicks that it has not read."""
    lane.produce(clicks(500))
    worker = lane.start()
    lane.wait_for_clicks()
    assert worker.end(signal.SIGTERM) == 0, worker.log
    line = refusal(lane, group=f"{lane.name}-2")
    assert "no committed offset" in line


def test_empty_changelog_beside_committed_offsets_is_refused(lane: Lane) -> None:
    """With a new changelog and the old group, every user would silently lose the history."""
    lane.produce(clicks(500))
    worker = lane.start()
    lane.wait_for_clicks()
    assert worker.end(signal.SIGTERM) == 0, worker.log
    other = f"{lane.name}-other"
    create_topics(lane.broker, msgspec.structs.replace(lane.topics, changelog=other), 4, 1)
    line = refusal(lane, changelog_topic=other)
    assert "without history" in line


@pytest.mark.parametrize("hidden", [16, 24])
def test_a_model_that_did_not_write_the_states_is_refused_before_it_joins(
    lane: Lane, tmp_path: Path, hidden: int
) -> None:
    """Other weights, and another layout of the rows. The worker that has the partitions notices nothing of it."""
    lane.produce(clicks(500))
    running = lane.start(worker_id="a")
    lane.wait_for_clicks()
    items = [f"i{number}" for number in range(300)]
    other = tmp_path / "other" / "1"
    write_untrained(other, items, ["view", "buy"], hidden=hidden, seed=7)
    assert "written with another model" in refusal(lane, model=other, worker_id="b")
    lane.produce(clicks(500, seed=1))
    lane.wait_for_clicks()
    assert running.log.count("partitions recovered") == 1, running.log
    assert "partitions revoked" not in running.log


def test_second_worker_with_one_id_is_refused(lane: Lane) -> None:
    """While the first one lives, the later one ends with 2 and names it; the first one decides on. After `kill -9` the
    place is free at once. Then Kafka still shows the client id of the killed one, and the next one is refused, too."""
    lane.produce(clicks(500))
    first = lane.start(worker_id="a")
    lane.wait_for_clicks()
    assert f"eddy-a@{socket.gethostname()}/{first.process.pid} on" in last_line(lane.start(worker_id="a"))
    lane.produce(clicks(500, seed=1))
    lane.wait_for_clicks()
    assert first.log.count("partitions recovered") == 1
    first.process.kill()  # nobody waits for it yet
    third = lane.start(worker_id="a")
    third.wait_for("partitions recovered")
    assert "another process" not in third.log
    assert f"eddy-a@{socket.gethostname()}/{third.process.pid} on" in last_line(lane.start(worker_id="a"))
    lane.produce(clicks(500, seed=2))
    lane.wait_for_clicks()
    assert third.log.count("partitions recovered") == 1
    lane.assert_as_if_nothing_had_happened()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_group_of_another_application_is_refused(lane: Lane, protocol: str) -> None:
    """Kafka would not let the worker join, and its error names neither the group nor the other one."""
    settings = {"bootstrap.servers": lane.broker, "group.id": lane.name, "group.protocol": protocol}
    other = Consumer({**settings, "client.id": "report", "enable.auto.commit": False})
    other.subscribe([lane.topics.clicks])
    wait_until(lambda: other.poll(ASK_S) is None and bool(other.assignment()), "a member of the group")
    assert f"{lane.name} has the member report on" in refusal(lane)
    other.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_full_disk_under_the_log_stops_nothing(lane: Lane) -> None:
    """No line can be written, from the first to the last: clicks are decided, and SIGTERM ends the worker with 0."""
    lane.produce(clicks(500))
    with open("/dev/full", "wb", buffering=0) as full:
        process = subprocess.Popen(
            lane.arguments(), stdout=full, stderr=full, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    (lane.directory / "none.log").touch()
    lane.workers.append(Worker(process, lane.directory / "none.log"))
    lane.wait_for_clicks(deadline_s=60)
    assert lane.workers[-1].end(signal.SIGTERM) == 0
    lane.assert_as_if_nothing_had_happened()


def test_faust_command_line_starts_a_worker_from_the_environment(lane: Lane, tmp_path: Path) -> None:
    """`faust -A stream.worker.app worker` does what `eddy worker` does, with EDDY_* as settings. No port is opened."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lane.produce(clicks(500))
    environment = {variable(f"{name}_topic"): topic for name, topic in msgspec.structs.asdict(lane.topics).items()}
    environment |= {
        "EDDY_MODEL": str(lane.model),
        "EDDY_BROKER": lane.broker,
        "EDDY_GROUP": lane.name,
        "EDDY_DATA_DIR": str(tmp_path),
    }
    with (tmp_path / "faust.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "faust", "-A", "stream.worker.app", "worker", "--web-port", str(port)],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
    lane.workers.append(Worker(process, tmp_path / "faust.log"))
    lane.wait_for_clicks()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert str(port) not in lane.workers[-1].log
    assert lane.workers[-1].end(signal.SIGTERM) == 0
