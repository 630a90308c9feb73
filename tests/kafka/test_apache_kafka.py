"""The broker that the Kafka lane and the benchmarks start."""

import signal
import subprocess
import sys
from pathlib import Path

from confluent_kafka.admin import AdminClient

from tests.kafka.lane import wait_until


def test_the_lane_runs_on_a_real_kafka(kafka: str) -> None:
    """The broker has a cluster id; the embedded broker has none."""
    admin = AdminClient({"bootstrap.servers": kafka})
    assert admin.describe_cluster().result(timeout=10).cluster_id


def test_sigterm_leaves_no_broker_and_no_files(kafka: str, tmp_path: Path) -> None:
    """A benchmark that is stopped with SIGTERM ends its broker, deletes the broker's data, and dies of the signal."""
    code = (
        f"import tempfile, time; tempfile.tempdir = {str(tmp_path)!r}; from bench.apache_kafka import ApacheKafka\n"
        "broker = ApacheKafka(); print(broker._process.pid, flush=True); time.sleep(120)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        broker = int(program.stdout.readline())
        assert list(tmp_path.glob("eddy-kafka-*"))
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=30) == -signal.SIGTERM
    wait_until(lambda: not Path(f"/proc/{broker}").exists(), "the broker still runs", 10.0)
    assert not list(tmp_path.glob("eddy-kafka-*"))
