"""What /livez and /readyz answer in each state of a worker."""

import asyncio
from types import SimpleNamespace

import pytest

from stream.web.health import SILENT_S, WHY_NOT_READY, Doing, Health

ANSWERS, OUT = SimpleNamespace(out=False, breaks=0), SimpleNamespace(out=True, breaks=1)


def health(doing: Doing, kafka: SimpleNamespace | None = ANSWERS) -> Health:
    made = Health()
    made.doing, made.kafka = lambda: doing, kafka
    return made


@pytest.mark.parametrize("phase", WHY_NOT_READY)
def test_only_a_worker_with_its_states_and_a_spare_are_ready(phase: str) -> None:
    """All others live and are not ready, with a reason."""
    found = health(Doing(phase, 3))
    assert found.live().reason == ""
    assert (found.ready().reason == "") == (phase in ("assigned", "spare"))
    assert found.ready().facts == {"phase": phase, "partitions": 3, "kafka_answers": True, "cycle_s": 0.0}


def test_a_worker_without_kafka_lives_and_is_not_ready() -> None:
    """An outage passes, so a restart would not help; while it lasts nothing is decided."""
    found = health(Doing("assigned", 3), OUT)
    assert found.live().reason == ""
    assert found.ready().reason == "Kafka does not answer"
    assert found.ready().facts["kafka_answers"] is False


def test_a_worker_before_its_first_question_to_kafka_is_not_ready() -> None:
    """While it loads its model nobody knows whether Kafka answers."""
    found = Health()
    assert (found.live().reason, found.ready().reason) == ("", WHY_NOT_READY["starting"])
    assert found.ready().facts["kafka_answers"] is False


def test_a_slow_cycle_is_not_ready_and_an_engine_that_hangs_is_not_live() -> None:
    """The reason says for how long."""
    slow, hangs = health(Doing("assigned", 1, 31.0, slow=True)), health(Doing("assigned", 1, 301.0, True, True))
    assert (slow.live().reason, slow.ready().reason) == ("", "the running cycle has taken 31 s")
    assert hangs.live().reason == hangs.ready().reason == "the engine hangs, for 301 s"


def test_an_event_loop_that_runs_nothing_is_not_live() -> None:
    """It is asked from a different thread, with a clock of its own. A loop that runs again is live again."""
    now_s = [100.0]
    found = Health(lambda: now_s[0])
    found.doing, found.kafka = lambda: Doing("assigned", 1), ANSWERS

    async def run() -> None:
        found.beat(asyncio.get_running_loop())
        now_s[0] += SILENT_S
        assert found.live().reason == ""
        now_s[0] += 1.0
        assert found.live().reason == found.ready().reason == "the event loop has run nothing for 11 s"
        while found.live().reason:
            await asyncio.sleep(0.01)  # the loop runs: its next beat comes

    asyncio.run(asyncio.wait_for(run(), 10))
