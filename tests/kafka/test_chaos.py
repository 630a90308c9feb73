"""Failures in combination, on brokers of their own, so these tests need Java. `make chaos` is the long run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.apache_kafka import ApacheKafka
from tests.kafka.lane import ROOT, Lane, clicks

FAULTS, SEED = 12, 19348
"""With this seed, of thirty thousand, they are the twelve kinds of one broker's faults, and the shortest."""

WORKERS = ("0", "1")


@pytest.mark.skipif("EDDY_TEST_KAFKA" in os.environ, reason="a cold broker is needed, which that one is not")
def test_first_start_of_two_workers_on_a_cold_broker_skips_no_click(name: str, model: Path, tmp_path: Path) -> None:
    """On a new cluster the second worker joins before the first commits: nothing is lost, no error is logged."""
    with ApacheKafka() as broker:
        lane = Lane(broker.address, name, model, tmp_path)
        lane.create()
        lane.produce(clicks(1_000))
        try:
            for worker_id in WORKERS:
                lane.start(worker_id=worker_id)
            lane.wait_for_clicks(deadline_s=30)
            assert [line for worker in lane.workers for line in worker.log.splitlines() if " ERROR " in line] == []
            lane.assert_as_if_nothing_had_happened()
        finally:
            lane.end_all()


@pytest.mark.skipif("EDDY_TEST_KAFKA" in os.environ, reason="a broker that is not ours is not killed")
def test_twelve_random_faults_leave_no_trace(kafka: str, model: Path, tmp_path: Path) -> None:
    """A short `make chaos` finds nothing wrong. Many faults overlap, so that it stays short."""
    flags = {"faults": FAULTS, "seed": SEED, "gap": 1, "overlap": 1, "rate": 80}
    flags |= {"model": model, "out": tmp_path / "chaos.json", "logs": tmp_path / "logs"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, "-m", "bench.chaos", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (figures,) = json.loads((tmp_path / "chaos.json").read_text())["results"].values()
    assert figures["faults"] == FAULTS
    for when in ("before compaction", "after compaction"):
        assert figures[when]["decisions"] == figures[when]["clicks"] > 1_000
        assert figures[when]["rows"] > 100
        assert figures[when]["session events"] > figures[when]["triggers"] > 100
        assert figures[when]["hours"] > 100
