"""The faults: what is done to workers, brokers and the network, in an order that only the seed decides.

kill           kill -9 of a worker, which starts again under its id; sometimes later than its session lasts
stop           SIGTERM; the worker ends with 0 and starts again
leave, join    the group gets smaller or larger by one worker
freeze         SIGSTOP, and SIGCONT within the session: nobody takes the worker's partitions
long freeze    SIGSTOP, and SIGCONT after the session: others have taken them
rolling stop   every worker in turn: SIGTERM, start, and wait until it has partitions
broker kill    kill -9 of a broker, which starts again
broker freeze  SIGSTOP and SIGCONT of a broker
stall          the network between the workers and all brokers forwards nothing; all of it arrives later
drop           all connections are reset, and new ones are refused
delay          it forwards each piece 200 ms later
leader kill    broker kill of the leader of a partition of the clicks; three brokers only
election       the preferred brokers become leaders again; three brokers only
"""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from confluent_kafka import ElectionType, KafkaException, TopicPartition

from bench.chaos.cluster import Broker, Cluster
from bench.chaos.workers import RECOVERED, SESSION_S, Supervisor, Worker
from bench.tcp_proxy import TcpProxy

FEWEST, FIRST, MOST = 1, 2, 4
"""Workers: at least, at the beginning, at most."""

KINDS = ["kill"] * 3 + ["stop", "stop", "leave", "join", "freeze", "freeze", "long freeze"]
KINDS += ["rolling stop", "broker kill", "broker freeze", "stall", "drop", "delay"]
WITH_THREE = ["leader kill", "election", "broker kill"]

LASTS_S = {
    "kill": (0.0, 1.5 * SESSION_S),
    "stop": (0.0, 1.5),
    "freeze": (0.3, 0.6 * SESSION_S),
    "long freeze": (1.2 * SESSION_S, 2.0 * SESSION_S),
    "broker kill": (0.3, 4.0),
    "broker freeze": (0.5, 6.0),
    "stall": (0.5, 12.0),
    "drop": (0.3, 6.0),
    "delay": (3.0, 6.0),
    "leader kill": (0.3, 4.0),
}
"""How long a fault lasts, seconds: lowest and highest."""

DELAY_S = 0.2


class Fault(NamedTuple):
    """One fault of the schedule.

    gap_s     seconds between the fault before and this one
    lasts_s   how long it lasts, seconds
    which     in [0, 1): chooses the worker, the broker or the partition
    overlaps  the next fault does not wait for the end of this one
    """

    kind: str
    gap_s: float
    lasts_s: float
    which: float
    overlaps: bool


def schedule(seed: int, count: int, brokers: int, longest_gap_s: float, overlap: float) -> list[Fault]:
    """`count` faults. The kinds come in rounds, each in a random order, so that every kind has its share.

    overlap  share of the faults that overlap with the next one
    """
    rng = random.Random(seed)
    kinds, workers = KINDS + (WITH_THREE if brokers > 1 else []), FIRST
    found: list[Fault] = []
    while len(found) < count:
        for kind in rng.sample(kinds, len(kinds)):
            if kind in ("leave", "join"):
                kind = "join" if workers == FEWEST else "leave" if workers == MOST else kind
                workers += 1 if kind == "join" else -1
            lasts_s = rng.uniform(*LASTS_S.get(kind, (0.0, 0.0)))
            gap_s = rng.uniform(0.0, longest_gap_s)
            found.append(Fault(kind, gap_s, lasts_s, rng.random(), rng.random() < overlap))
    return found[:count]


@dataclass
class Done:
    """A fault that was done, and when it began, by the monotonic clock."""

    kind: str
    began: float


def delay(seconds: float, proxy: TcpProxy) -> None:
    proxy.delay_s = seconds


class Hand:
    """Does faults, and tends the workers meanwhile. At most one fault of a broker or the network goes on at a time."""

    def __init__(self, cluster: Cluster, supervisor: Supervisor, topic: str, partitions: int) -> None:
        self._cluster, self._supervisor = cluster, supervisor
        self._topic, self._partitions = topic, partitions
        self._hurt_until = 0.0
        self._acts: dict[str, Callable[[Fault], object]] = {
            "kill": lambda f: self._supervisor.kill(self._worker(f), f.lasts_s),
            "stop": self._stop,
            "leave": lambda f: self._supervisor.remove(self._worker(f)),
            "join": lambda f: self._supervisor.add(),
            "freeze": self._freeze,
            "long freeze": self._freeze,
            "rolling stop": self._rolling_stop,
            "broker kill": lambda f: self._kill_broker(f, self._broker(f)),
            "broker freeze": self._freeze_broker,
            "stall": lambda f: self._disturb(f, TcpProxy.stall, TcpProxy.resume),
            "drop": lambda f: self._disturb(f, TcpProxy.close, TcpProxy.listen),
            "delay": lambda f: self._disturb(f, partial(delay, DELAY_S), partial(delay, 0.0)),
            "leader kill": lambda f: self._kill_broker(f, self._leader(f)),
            "election": self._elect,
        }

    def do(self, faults: list[Fault]) -> Iterator[Done]:
        """Do the faults in turn. Raises RunFailed, KafkaUnavailable."""
        for fault in faults:
            self._supervisor.tend_for(fault.gap_s)
            began = time.monotonic()
            self._acts[fault.kind](fault)
            if not fault.overlaps:
                self._settle()
            yield Done(fault.kind, began)
        self._settle()

    def _settle(self) -> None:
        """Wait for the end of every fault."""
        self._supervisor.tend_until(lambda: not self._supervisor.due, "the ends of all faults", 60)
        self._cluster.wait_ready(self._supervisor.tend)

    def _worker(self, fault: Fault) -> Worker:
        """A worker that runs. Waits for one."""
        workers = self._supervisor.workers
        self._supervisor.tend_until(lambda: any(not worker.ended for worker in workers), "a worker runs", 60)
        running = [worker for worker in workers if not worker.ended]
        return running[int(fault.which * len(running))]

    def _wait_for_kafka(self) -> None:
        """Wait until all brokers and their network are as they should be."""
        self._supervisor.tend_until(lambda: time.monotonic() >= self._hurt_until, "a broker is back", 60)
        self._supervisor.tend()
        self._cluster.wait_ready(self._supervisor.tend)

    def _heal_later(self, seconds: float, action: Callable[[], None]) -> None:
        self._supervisor.later(seconds, action)
        self._hurt_until = max(self._hurt_until, self._supervisor.due[-1][0])

    def _broker(self, fault: Fault) -> Broker:
        """A broker, when nothing is wrong with any."""
        self._wait_for_kafka()
        return self._cluster.brokers[int(fault.which * len(self._cluster.brokers))]

    def _leader(self, fault: Fault) -> Broker:
        """The leader of a partition of the clicks, when nothing is wrong with any broker."""
        self._wait_for_kafka()
        return self._cluster.leader(self._topic, int(fault.which * self._partitions))

    def _stop(self, fault: Fault) -> None:
        worker = self._worker(fault)
        self._supervisor.stop(worker)
        worker.start_at = time.monotonic() + fault.lasts_s

    def _rolling_stop(self, fault: Fault) -> None:
        for worker in list(self._supervisor.workers):
            self._supervisor.stop(worker)
            worker.start()
            self._wait_recovered(worker)

    def _wait_recovered(self, worker: Worker) -> None:
        """Wait until a worker has partitions; for ten seconds, because a group may have more workers than work."""
        end = time.monotonic() + 10
        done = "a worker has partitions"
        self._supervisor.tend_until(lambda: worker.says(RECOVERED) or time.monotonic() > end, done, 60)

    def _freeze(self, fault: Fault) -> None:
        worker = self._worker(fault)
        process = worker.process
        process.send_signal(signal.SIGSTOP)
        self._supervisor.later(fault.lasts_s, lambda: process.send_signal(signal.SIGCONT))

    def _kill_broker(self, fault: Fault, broker: Broker) -> None:
        broker.kill()
        self._heal_later(fault.lasts_s, broker.start)

    def _freeze_broker(self, fault: Fault) -> None:
        broker = self._broker(fault)
        broker.freeze()
        self._heal_later(fault.lasts_s, broker.thaw)

    def _disturb(self, fault: Fault, begin: Callable[[TcpProxy], None], end: Callable[[TcpProxy], None]) -> None:
        self._wait_for_kafka()
        for proxy in self._cluster.proxies:
            begin(proxy)
            self._heal_later(fault.lasts_s, partial(end, proxy))

    def _elect(self, fault: Fault) -> None:
        self._wait_for_kafka()
        partitions = [TopicPartition(self._topic, number) for number in range(self._partitions)]
        with contextlib.suppress(KafkaException):  # they lead already
            self._cluster.admin.elect_leaders(ElectionType.PREFERRED, partitions).result(60)
