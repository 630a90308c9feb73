"""A Kafka cluster of one broker or of three, whose brokers can be killed, frozen and started again one by one.

Three brokers replicate everything three times, and two of them must have a message before it is acknowledged. Each
broker has two listeners for clients: one for the harness, and one behind a proxy (bench.tcp_proxy) for the workers.
"""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bench.apache_kafka import PROPERTIES, KafkaUnavailable, fetch_jars, free_ports, shared_classes
from bench.kafka_storage import FormatFailed, format_storage
from bench.tcp_proxy import TcpProxy

HEAP = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

MORE = """node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},WORKERS://127.0.0.1:{inner},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},WORKERS://{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,WORKERS:PLAINTEXT,CONTROLLER:PLAINTEXT
offsets.topic.replication.factor={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
min.insync.replicas={in_sync}
broker.session.timeout.ms=4000
log.cleaner.backoff.ms=500
log.cleaner.dedupe.buffer.size=16777216
"""
"""These lines replace those of PROPERTIES with the same name. The cleaner looks for work every half second, so that a
run can wait for a compaction; Kafka's default is every 15 seconds."""

READY_S = 90.0


class Broker:
    """One broker process and its data. `frozen` and `running` are what the harness did to it."""

    def __init__(self, libs: Path, directory: Path, properties: str, node: int) -> None:
        self._java = ["java", *HEAP, shared_classes(libs), "-cp", f"{libs}/*"]
        self._properties = directory / "server.properties"
        self.log = directory / "broker.log"
        directory.mkdir()
        self._properties.write_text(properties)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            format_storage(self._java, libs, directory / "data", node)
        except FormatFailed as exc:
            raise KafkaUnavailable(f"Kafka's storage could not be formatted:\n{exc}") from None

    def start(self) -> None:
        """Start it, unless it runs."""
        if not self.ended:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(self._properties)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must not stop the broker before the workers
            )

    def kill(self) -> None:
        """Kill it with SIGKILL. The data stays."""
        if self._process is not None:
            self._process.kill()  # ends a frozen one, too
            self._process.wait()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


class Cluster:
    """Starts `count` brokers, and returns when all of them are ready. `close` ends them and deletes their data.

    direct   "127.0.0.1:port,...": the harness connects here
    address  the same for the workers, through `proxies`, one for each broker
    Raises KafkaUnavailable if Java or the jars are missing, or if the brokers are not ready within READY_S seconds.
    """

    def __init__(self, count: int) -> None:
        libs = fetch_jars()
        self._directory = Path(tempfile.mkdtemp(prefix="eddy-chaos-kafka-"))
        self._stack = contextlib.ExitStack()
        self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
        numbers = free_ports(3 * count)
        ports = [numbers[at : at + 3] for at in range(0, 3 * count, 3)]
        voters = ",".join(f"{at + 1}@127.0.0.1:{port[1]}" for at, port in enumerate(ports))
        self.copies, self.direct = count, ",".join(f"127.0.0.1:{port[0]}" for port in ports)
        self.brokers: list[Broker] = []
        try:
            self.proxies = [self._stack.enter_context(TcpProxy(f"127.0.0.1:{inner}")) for _, _, inner in ports]
            self.address = ",".join(proxy.address for proxy in self.proxies)
            for at, (port, controller, inner) in enumerate(ports):
                directory = self._directory / str(at + 1)
                text = PROPERTIES.format(port=port, controller=controller, data=directory / "data") + MORE.format(
                    number=at + 1,
                    voters=voters,
                    port=port,
                    controller=controller,
                    inner=inner,
                    proxy=self.proxies[at].address,
                    copies=count,
                    in_sync=min(2, count),
                )
                self.brokers.append(Broker(libs, directory, text, at + 1))
                self._stack.callback(self.brokers[-1].kill)
            for broker in self.brokers:
                broker.start()
            self.admin = AdminClient(
                {"bootstrap.servers": self.direct, "log_level": 0, "reconnect.backoff.max.ms": 200}
            )
            self.wait_ready(lambda: None)
        except BaseException:
            self.close()
            raise

    def wait_ready(self, meanwhile: Callable[[], None]) -> None:
        """Wait until every broker is in the cluster. `meanwhile` is called again and again."""
        deadline = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(KafkaException):
                if len(self.admin.list_topics(timeout=0.5).brokers) == self.copies:
                    return
            ended = [broker for broker in self.brokers if broker.ended]
            if ended or time.monotonic() > deadline:
                log = (ended or self.brokers)[0].log.read_text(errors="replace")
                raise KafkaUnavailable(f"the brokers were not ready within {READY_S:.0f} s:\n{log[-2000:]}")
            meanwhile()
            time.sleep(0.05)

    def leader(self, topic: str, partition: int) -> Broker:
        """The broker that leads a partition."""
        leader: int = self.admin.list_topics(topic, timeout=10).topics[topic].partitions[partition].leader
        return self.brokers[leader - 1]

    def keep(self, directory: Path) -> None:
        """Kill the brokers and copy their logs and data, so that a failed run can be understood."""
        for broker in self.brokers:
            broker.kill()
        shutil.copytree(self._directory, directory)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
