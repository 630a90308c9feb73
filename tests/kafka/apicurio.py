"""A real Schema Registry for tests: Apicurio Registry, whose API /apis/ccompat/v7 is that of Confluent's.

Maven downloads the application into `.kafka/` at the first use (104 MB), as Kafka's jars. It keeps its schemas in
memory and needs Java 17. Confluent's own registry is not on Maven Central.
"""

import fcntl
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.schema_registry import SchemaRegistryClient

from bench.apache_kafka import HOME, KafkaUnavailable, download, free_ports
from bench.tcp_proxy import TcpProxy

VERSION = "2.6.13.Final"
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
START_S = 120.0
API = "/apis/ccompat/v7"


def fetch_registry() -> Path:
    """Return the directory of the application; Maven downloads it at the first use. Raises KafkaUnavailable."""
    home = HOME / f"apicurio-{VERSION}"
    HOME.mkdir(exist_ok=True)
    with (HOME / "apicurio.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if home.is_dir():
            return home
        for program in ("java", "mvn"):
            if shutil.which(program) is None:
                raise KafkaUnavailable(f"a Schema Registry needs `{program}` on the PATH")
        partial = HOME / "apicurio-partial"
        shutil.rmtree(partial, ignore_errors=True)
        download(f"Apicurio Registry {VERSION}", partial, "copy", f"-Dartifact={ARTIFACT}")
        [archive] = partial.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(partial, filter="data")
        archive.unlink()
        partial.rename(home)  # last, so that a directory with this name is complete
    return home


class Running(NamedTuple):
    """A registry.

    url    without TLS
    tls    the same registry with TLS
    proxy  a proxy in front of it, by which the workers reach it
    """

    url: str
    tls: str
    proxy: TcpProxy

    @property
    def by_proxy(self) -> str:
        return f"http://{self.proxy.address}{API}"

    def client(self) -> SchemaRegistryClient:
        return SchemaRegistryClient({"url": self.url})


class Apicurio:
    """A registry process at `url`, and with TLS at `tls`. Raises KafkaUnavailable if it cannot start.

    certificate  PEM file of the certificate for 127.0.0.1, beside that of its key, which ends in .key
    """

    def __init__(self, log: Path, certificate: Path) -> None:
        home = fetch_registry()
        port, tls_port = free_ports(2)
        self.url, self.tls = f"http://127.0.0.1:{port}{API}", f"https://127.0.0.1:{tls_port}{API}"
        options = [
            "-Xmx384m",
            "-XX:TieredStopAtLevel=1",  # it runs for seconds: half of the CPU time of its start
            "-XX:+UseSerialGC",
            f"-Dquarkus.http.port={port}",
            f"-Dquarkus.http.ssl-port={tls_port}",
            f"-Dquarkus.http.ssl.certificate.files={certificate}",
            f"-Dquarkus.http.ssl.certificate.key-files={certificate.with_suffix('.key')}",
            "-Dquarkus.http.host=127.0.0.1",
        ]
        jar = f"apicurio-registry-app-{VERSION}-runner.jar"
        with log.open("wb") as out:
            self.process = subprocess.Popen(["java", *options, "-jar", jar], stdout=out, stderr=out, cwd=home)
        end_s = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end_s:
                self.stop()
                raise KafkaUnavailable(f"the Schema Registry did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)  # the polling interval; the deadline above decides

    def stop(self) -> None:
        """End the process; its schemas are lost."""
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False
