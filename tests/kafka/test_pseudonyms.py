"""A worker with --pseudonymise on a real Kafka: no raw id on any topic that it writes."""

import signal

import pytest

from stream.wire.pseudonym import Pseudonyms
from tests.kafka.lane import Lane, clicks

pytestmark = pytest.mark.real_kafka

KEY = b"0123456789abcdef"


def test_no_raw_id_is_written_and_another_key_is_refused(lane: Lane) -> None:
    """After a restart users keep their states under their pseudonyms; a worker with another key does not start."""
    key = lane.directory / "users.key"
    key.write_bytes(KEY + b"\n")
    for seed in (1, 2):
        lane.produce([*clicks(300, users=40, seed=seed), (b"user7", b"no click of user7")])
        worker = lane.start(pseudonymise=key, worker_id="0", alpha=0.5)
        lane.wait_for_clicks()
        assert worker.end(signal.SIGTERM) == 0, worker.log
        assert KEY.decode() not in worker.log
    written = [message for topic in lane.topics.names()[1:] for message in lane.read(topic)]
    assert not [m for m in written if b"user" in (m.key() or b"") or b'"user7' in (m.value() or b"")]
    users = {m.key().decode() for m in lane.read(lane.topics.recommendations)}
    assert users == {Pseudonyms(KEY).of(f"user{n}") for n in range(40)}
    key.write_bytes(b"another key of 20 by")
    worker = lane.start(pseudonymise=key, worker_id="0")
    assert worker.process.wait(timeout=60) == 2
    assert "key of --pseudonymise" in worker.log.strip().splitlines()[-1]
