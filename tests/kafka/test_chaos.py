"""Random failures in combination: workers are killed and frozen, and the broker is killed. The seed is printed.

EDDY_CHAOS_SEED and EDDY_CHAOS_STEPS change the run and its length. It starts its own broker, so it needs Java.
"""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from bench.apache_kafka import ApacheKafka
from tests.kafka.lane import Lane, clicks, wait_until

SEED = int(os.environ.get("EDDY_CHAOS_SEED", "11"))
STEPS = int(os.environ.get("EDDY_CHAOS_STEPS", "8"))
WORKERS = ("0", "1")


@pytest.mark.skipif("EDDY_TEST_KAFKA" in os.environ, reason="a cold broker is needed, which that one is not")
def test_first_start_of_two_workers_on_a_cold_broker_skips_no_click(name: str, model: Path, tmp_path: Path) -> None:
    """On a new cluster the second worker joins before the first commits: nothing is lost, no error is logged."""
    with ApacheKafka() as broker:
        lane = Lane(broker.address, name, model, tmp_path)
        lane.create()
        lane.produce(clicks(3_000))
        try:
            for worker_id in WORKERS:
                lane.start(worker_id=worker_id)
            lane.wait_for_clicks(deadline_s=30)
            assert [line for worker in lane.workers for line in worker.log.splitlines() if " ERROR " in line] == []
            lane.assert_as_if_nothing_had_happened()
        finally:
            lane.end_all()


@pytest.mark.skipif("EDDY_TEST_KAFKA" in os.environ, reason="a broker that is not ours is not killed")
def test_killed_and_frozen_workers_and_broker_leave_no_trace(
    kafka: str, name: str, model: Path, tmp_path: Path
) -> None:
    """After kills, freezes and broker crashes every state equals the oracle's and every click has one decision."""
    print(f"EDDY_CHAOS_SEED={SEED} EDDY_CHAOS_STEPS={STEPS}")
    rng = random.Random(SEED)
    with ApacheKafka() as broker:
        lane = Lane(broker.address, name, model, tmp_path)
        lane.create()
        running = {worker_id: lane.start(worker_id=worker_id, hang_s=10) for worker_id in WORKERS}
        stop = threading.Event()
        loading = threading.Thread(target=load, args=(lane, stop))
        loading.start()

        def tend() -> None:
            """Start workers that have ended, as a supervisor does. Only kills, fencing and hanging calls may end a
            worker."""
            for worker_id, worker in running.items():
                code = worker.process.poll()
                if code is not None:
                    assert code in (-signal.SIGKILL, 70, 2), worker.log
                    assert code != 2 or "no Kafka answers" in worker.log, worker.log
                    running[worker_id] = lane.start(worker_id=worker_id, hang_s=10)

        def tend_for(seconds: float) -> None:
            end = time.monotonic() + seconds
            wait_until(lambda: tend() or time.monotonic() >= end, "time goes by")

        try:
            tend_for(5)
            for _ in range(STEPS):
                what, worker = rng.choice(["kill", "kill", "freeze", "broker"]), running[rng.choice(WORKERS)]
                if what == "kill":
                    worker.process.kill()
                    tend_for(rng.uniform(0.5, 4))
                elif what == "freeze":
                    worker.send(signal.SIGSTOP)
                    tend_for(rng.uniform(1, 9))
                    worker.send(signal.SIGCONT)
                else:
                    broker.kill()
                    tend_for(rng.uniform(0.5, 3))
                    broker.restart()
                    tend_for(3)
            stop.set()
            loading.join()
            with lane.progress() as look:
                wait_until(lambda: tend() or len(set(look())) == 1, "all clicks decided", 120)
            lane.assert_as_if_nothing_had_happened()
        finally:
            stop.set()
            loading.join()
            lane.end_all()


def load(lane: Lane, stop: threading.Event) -> None:
    """Send about a thousand clicks a second until `stop` is set, also during broker crashes."""
    seed = 0
    while not stop.wait(0.5):
        lane.produce(clicks(500, seed=seed))
        seed += 1
