"""Runs a real Apache Kafka as one process (KRaft) on free ports. For tests and benchmarks only.

Maven downloads the jars into `.kafka/` at the first use (43 MB), and an archive of their classes is made beside them
(49 MB). Every ApacheKafka has its own new data directory. The broker is ready when an AdminClient can list its topics;
there is no fixed sleep. `kill()` and `restart()` keep the data, as a crash does.

Source: Kafka's config/server.properties for KRaft, combined mode.
"""

import contextlib
import fcntl
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bench.kafka_secured import Secured
from bench.kafka_storage import FormatFailed, format_storage

VERSION = "4.1.0"
ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".kafka"

FAST_START = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Options of Java for tests: the broker is up in three seconds. Java compiles little of it, so its requests take
longer."""

AS_SERVED = (
    *("-Xms1G", "-Xmx1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
)
"""Options of Java for benchmarks that run for minutes: those of Kafka's own start script."""

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>eddy</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{version}</version>
    </dependency>
  </dependencies>
</project>
"""

PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
log.dirs={data}
num.network.threads=2
num.io.threads=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.retention.check.interval.ms=60000
log.cleaner.backoff.ms=500
broker.heartbeat.interval.ms=500
"""


PROXIED_PROPERTIES = """listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},\
PROXIED://127.0.0.1:{behind}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
"""
"""A second listener that advertises a proxy: clients of the proxy always come back by it."""


class KafkaUnavailable(Exception):
    """A real Kafka cannot be started on this machine; the text names the reason."""


def fetch_jars() -> Path:
    """Return the directory of Kafka's jars; Maven downloads them at the first use. Raises KafkaUnavailable."""
    libs = HOME / f"libs-{VERSION}"
    for program, need in (("java", "a Java runtime, 17 or newer"), ("mvn", "Apache Maven")):
        if shutil.which(program) is None and not (program == "mvn" and libs.is_dir()):
            raise KafkaUnavailable(f"a real Kafka needs {need}: `{program}` is not on the PATH")
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if libs.is_dir():
            return libs
        (HOME / "pom.xml").write_text(POM.format(version=VERSION))
        partial = HOME / "libs-partial"
        shutil.rmtree(partial, ignore_errors=True)
        download(f"the jars of Kafka {VERSION}", partial, "copy-dependencies", "-f", str(HOME / "pom.xml"))
        partial.rename(libs)  # last, so that a directory with this name is complete
    return libs


def download(what: str, directory: Path, goal: str, *options: str) -> None:
    """Let Maven's dependency plugin download files to a directory. Raises KafkaUnavailable."""
    plugin = f"org.apache.maven.plugins:maven-dependency-plugin:3.8.1:{goal}"
    command = ["mvn", "-q", "-B", *options, plugin, f"-DoutputDirectory={directory}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise KafkaUnavailable(f"Maven could not download {what}:\n{done.stdout[-2000:]}")


def shared_classes(libs: Path) -> str:
    """The option of Java that loads Kafka's classes as a broker before has left them: half of a start's time.

    The first call starts a broker for it and stops it. Java ignores the file if it is of another version of itself.
    Raises KafkaUnavailable.
    """
    kept, partial = libs.with_name(f"{libs.name}.jsa"), HOME / "classes-partial"
    with (HOME / "classes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_file():
            partial.unlink(missing_ok=True)
            ApacheKafka(classes=f"-XX:ArchiveClassesAtExit={partial}").stop()
            if partial.is_file():  # Java was not killed at its end; without the file starts are only slower
                partial.rename(kept)  # last, so that a file with this name is complete
    return f"-XX:SharedArchiveFile={kept}"


def free_ports(count: int) -> list[int]:
    """Free ports below the ephemeral range, so that no outgoing connection can take one before the broker does."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        candidate = 20_000 + os.getpid() * 7 % 10_000
        while len(ports) < count:
            candidate += 1
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", candidate))
                ports.append(candidate)
        return ports


class ApacheKafka:
    """One broker on 127.0.0.1. The constructor starts it and returns when it is ready.

    If the process gets SIGTERM, the broker and its data are removed before the process dies of it. Python handles
    signals in the main thread only, so this needs a constructor call in the main thread.

    classes  an option of Java instead of that of `shared_classes`
    java     further options of Java
    session_s  the controller takes the leadership from a broker that it has not heard for so long, as on a machine that
             stood still. After `kill` a new process waits for so long until it is let in
    secured  adds listeners with TLS and SASL and turns on ACLs
    address  "127.0.0.1:port"; a `restart()` does not change it
    tls      with `secured`: address of the listener that demands a client certificate
    sasl     with `secured`: address of SASL over TLS
    notls    with `secured`: address of SASL PLAIN without TLS
    proxy    address of a TCP proxy, which gets a listener of its own; not together with `secured`
    behind   with `proxy`: address of that listener, the proxy's target
    Raises KafkaUnavailable if Java, Maven or the jars are missing, or if the broker is not ready within `ready_s`
    seconds.
    """

    def __init__(
        self,
        ready_s: float = 60.0,
        secured: Secured | None = None,
        proxy: str | None = None,
        classes: str | None = None,
        java: tuple[str, ...] = FAST_START,
        session_s: float = 2.0,
    ) -> None:
        self._options = java
        self._libs = fetch_jars()
        self._classes = classes or shared_classes(self._libs)
        self._ready_s = ready_s
        self._directory = Path(tempfile.mkdtemp(prefix="eddy-kafka-"))
        port, controller, tls, sasl, notls, behind = free_ports(6)
        self.address, self.tls, self.sasl, self.notls = (f"127.0.0.1:{number}" for number in (port, tls, sasl, notls))
        self.behind = f"127.0.0.1:{behind}"
        text = PROPERTIES.format(port=port, controller=controller, data=self._directory / "data")
        text += f"broker.session.timeout.ms={session_s * 1000:.0f}\n"
        if secured is not None:
            text += secured.properties(port=port, controller=controller, tls=tls, sasl=sasl, notls=notls)
        if proxy is not None:
            text += PROXIED_PROPERTIES.format(port=port, controller=controller, behind=behind, proxy=proxy)
        self._log = (self._directory / "broker.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self._earlier_handler: Any = None
        if threading.current_thread() is threading.main_thread():
            self._earlier_handler = signal.signal(signal.SIGTERM, self._terminated)
        try:
            properties = self._directory / "server.properties"
            properties.write_text(text)
            format_storage(self._java(), self._libs, self._directory / "data")
            self.restart()
        except FormatFailed as exc:
            self.stop()
            raise KafkaUnavailable(f"Kafka's storage could not be formatted:\n{exc}") from None
        except BaseException:
            self.stop()
            raise

    def _java(self, *options: str) -> list[str]:
        return ["java", *self._options, *options, "-cp", f"{self._libs}/*"]

    def _tail(self) -> str:
        self._log.flush()
        return (self._directory / "broker.log").read_text(errors="replace")[-2000:]

    def restart(self) -> None:
        """Start the broker, again if it runs, on its data, and wait until it answers."""
        self.kill()
        self._process = subprocess.Popen(
            [*self._java(self._classes), "kafka.Kafka", str(self._directory / "server.properties")],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            restore_signals=False,  # a write beyond a limit (`fill_disk`) is an error and no deadly signal
            start_new_session=True,  # Ctrl-C must not stop the broker before the benchmark does
        )
        deadline = time.monotonic() + self._ready_s
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0, "reconnect.backoff.max.ms": 200})
        while True:
            try:
                if admin.list_topics(timeout=1.0).brokers:
                    return
            except KafkaException:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise KafkaUnavailable(f"Kafka was not ready within {self._ready_s:.0f} s:\n{self._tail()}")

    def kill(self) -> None:
        """Kill the broker with SIGKILL. The data stays for `restart()`."""
        self._signal(signal.SIGKILL)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the broker answer nothing inside a `with` statement; its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def fill_disk(self) -> None:
        """Let no file of the broker grow, as on a full disk, until it ends itself. `restart()` has no limit."""
        assert self._process is not None
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        self._process.wait(timeout=30)
        self._process = None

    def stop(self) -> None:
        """Stop the broker and delete its data."""
        self._signal(signal.SIGTERM)
        if signal.getsignal(signal.SIGTERM) == self._terminated:
            signal.signal(signal.SIGTERM, self._earlier_handler)
        self._log.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        """Remove the broker, then let the earlier handler have the signal."""
        self.kill()  # a clean stop could take longer than a supervisor waits
        self.stop()
        os.kill(os.getpid(), number)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the broker and wait until it has ended, 15 s at most; then kill it."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
