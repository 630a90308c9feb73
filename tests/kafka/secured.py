"""What the tests on a secured broker share: the broker, its certificates, ACLs, and the ways in.

One broker for the whole run, with a listener of each kind. The certificates are made here. The plain listener
belongs to the tests: who comes by it has every right.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization

from bench.apache_kafka import ApacheKafka
from bench.kafka_secured import Secured
from stream.settings import Topics
from tests.kafka.brokers import Addresses, one_broker
from tests.kafka.lane import ASK_S, ROOT, Lane, Worker, wait_until
from tests.once import once, shared_directory
from tests.tokens import TokenEndpoint

USER = "User:eddy"
SECRETS = {"plain": "plain-hunter2", "scram": "scram-hunter2", "key": "key-hunter2", "client": "client-hunter2"}


class Cluster(NamedTuple):
    """The broker, and the PEM files ca, other (an authority that the broker does not have), client and client.key."""

    kafka: Addresses | ApacheKafka  # the latter if the test may restart it
    files: Path
    admin: AdminClient

    def set_password(self, password: str) -> None:
        """The SCRAM password of the user eddy."""
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            user = UserScramCredentialUpsertion("eddy", ScramCredentialInfo(mechanism, 4096), password.encode())
            self.admin.alter_user_scram_credentials([user])["eddy"].result()

    def restart(self) -> None:
        assert isinstance(self.kafka, ApacheKafka)
        self.kafka.restart()


def reached(kafka: Addresses | ApacheKafka, files: Path) -> Cluster:
    return Cluster(kafka, files, AdminClient({"bootstrap.servers": kafka.address, "log_level": 0}))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the certificates."""
    if os.environ.get("EDDY_TEST_KAFKA"):
        pytest.skip("EDDY_TEST_KAFKA is a broker without the listeners of this file")
    return once(shared_directory(tmp_path_factory) / "certificates", write_certificates)


def start_secured(certificates: Path, session_s: float = 2.0) -> ApacheKafka:
    """Start a secured broker that knows the user eddy."""
    broker = ApacheKafka(
        secured=Secured(certificates / "server.pem", certificates / "ca.pem", {"eddy": SECRETS["plain"]}),
        session_s=session_s,
    )
    reached(broker, certificates).set_password(SECRETS["scram"])
    return broker


@pytest.fixture(scope="session")
def cluster(kafka: str, certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The secured broker of all processes. No test may restart it."""
    with one_broker(
        shared_directory(tmp_path_factory), "secured", lambda session_s: start_secured(certificates, session_s)
    ) as addresses:
        yield reached(addresses, certificates)


@pytest.fixture
def own_cluster(kafka: str, certificates: Path) -> Iterator[Cluster]:
    """A secured broker that one test may change and restart. Without `kafka` there can be none either."""
    with start_secured(certificates) as broker:
        yield reached(broker, certificates)


def write_certificates(directory: Path) -> None:
    directory.mkdir()
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    other.cert_pem.write_to_path(directory / "other.pem")
    write_certificate(directory / "broker", authority, "127.0.0.1", None)
    write_certificate(directory / "client", authority, "eddy", SECRETS["key"])
    write_certificate(directory / "stranger", other, "eddy", None)
    (directory / "server.pem").write_bytes(
        (directory / "broker.key").read_bytes() + (directory / "broker.pem").read_bytes()
    )


def write_certificate(path: Path, authority: trustme.CA, name: str, password: str | None) -> None:
    """A certificate PATH.pem for `name`, and its private key PATH.key in the form that Kafka reads."""
    made = authority.issue_cert(name, common_name=name)
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    cipher = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)
    path.with_suffix(".key").write_bytes(pem)
    path.with_suffix(".pem").write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))


@pytest.fixture(scope="session")
def token_url() -> Iterator[str]:
    endpoint = TokenEndpoint(SECRETS["client"])
    yield endpoint.url
    endpoint.close()


# -- what docs/security.md lists ---------------------------------------------------------------------------------------


class Right(NamedTuple):
    """One row of the documents' ACL table: a kind of resource, the name there, and an operation."""

    kind: str
    name: str
    operation: str


def documented() -> list[Right]:
    page = (ROOT / "docs" / "security.md").read_text().split("## Rights (ACLs)")[1]
    rows = re.findall(
        r"^\| (topic|group|transactional id) \| `([^`]+)`(?:, prefixed)? \| (\w+) \| [^|]+ \|$", page, re.M
    )
    return [Right(*row) for row in rows]


RIGHTS = documented()
KINDS = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
}
FIELDS = {
    "clicks": "clicks",
    "recommendations": "recommendations",
    "anomalies": "anomalies",
    "system-alerts": "system_alerts",
    "sessions": "sessions",
    "triggers": "triggers",
    "behaviour": "behaviour",
    "clicks-dead-letter": "dead_letters",
    "eddy-changelog": "changelog",
}


class Secure(Lane):
    """A lane whose topics a test reaches by the plain listener, and whose workers come as the user eddy."""

    cluster: Cluster

    @property
    def topics(self) -> Topics:
        return msgspec.structs.replace(super().topics, behaviour=f"{self.name}-behaviour")

    def binding(self, right: Right) -> AclBinding:
        prefixed = right.kind == "transactional id"
        name = f"{self.name}:" if prefixed else self.name
        name = getattr(self.topics, FIELDS[right.name]) if right.kind == "topic" else name
        pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
        operation = AclOperation[right.operation]
        return AclBinding(KINDS[right.kind], name, pattern, USER, "*", operation, AclPermissionType.ALLOW)

    def grant(self, rights: list[Right]) -> None:
        self._allow([self.binding(right) for right in rights])

    def allow(self, kind: ResourceType, name: str, operation: str) -> None:
        """Grant a right that is no row of the table, on a resource of exactly this name."""
        right = AclOperation[operation]
        self._allow([AclBinding(kind, name, ResourcePatternType.LITERAL, USER, "*", right, AclPermissionType.ALLOW)])

    def revoke(self, right: Right) -> None:
        one = self.binding(right)
        for future in self.cluster.admin.delete_acls([_exactly(one)]).values():
            assert len(future.result()) == 1
        self._wait_for(one, False)

    def _allow(self, given: list[AclBinding]) -> None:
        for future in self.cluster.admin.create_acls(given).values():
            future.result()
        for one in given:
            self._wait_for(one, True)

    def _wait_for(self, one: AclBinding, there: bool) -> None:
        """Wait for the broker: the controller, which answers first, has an ACL before it, or has it no more."""
        admin = self.cluster.admin
        wait_until(lambda: bool(admin.describe_acls(_exactly(one)).result()) == there, f"{one}: {there}", every_s=ASK_S)


def _exactly(one: AclBinding) -> AclBindingFilter:
    """The filter that fits only this ACL."""
    of = one.restype, one.name, one.resource_pattern_type, one.principal, one.host, one.operation, one.permission_type
    return AclBindingFilter(*of)


@contextmanager
def secure_lane(cluster: Cluster, name: str, model: Path, directory: Path) -> Iterator[Secure]:
    lane = Secure(cluster.kafka.address, name, model, directory)
    lane.cluster = cluster
    lane.create()
    try:
        yield lane
    finally:
        lane.end_all()


@pytest.fixture
def secure(cluster: Cluster, name: str, model: Path, tmp_path: Path) -> Iterator[Secure]:
    with secure_lane(cluster, name, model, tmp_path) as lane:
        yield lane


# -- how a client may come ---------------------------------------------------------------------------------------------


def properties(cluster: Cluster, how: str, token_url: str = "") -> dict[str, str]:
    """The properties of one way in; the secret is one of them."""
    trusted = {"ssl.ca.location": str(cluster.files / "ca.pem")}
    if how == "certificate":
        return trusted | {
            "security.protocol": "ssl",
            "ssl.certificate.location": str(cluster.files / "client.pem"),
            "ssl.key.location": str(cluster.files / "client.key"),
            "ssl.key.password": SECRETS["key"],
        }
    sasl = trusted | {"security.protocol": "sasl_ssl"}
    if how == "unsecured token":
        return sasl | {
            "sasl.mechanism": "OAUTHBEARER",
            "enable.sasl.oauthbearer.unsecure.jwt": "true",
            "sasl.oauthbearer.config": "principal=eddy",
        }
    if how == "oidc":
        return sasl | {
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.token.endpoint.url": token_url,
            "sasl.oauthbearer.client.id": "eddy",
            "sasl.oauthbearer.client.secret": SECRETS["client"],
        }
    password = SECRETS["plain" if how == "PLAIN" else "scram"]
    return sasl | {"sasl.mechanism": how, "sasl.username": "eddy", "sasl.password": password}


def written(path: Path, given: dict[str, str]) -> Path:
    path.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    return path


def refusal(worker: Worker, lines: int | None = None) -> str:
    """The line that a worker ends with, exit code 2. `lines`: how many it may print in all."""
    assert worker.process.wait(timeout=60) == 2, worker.log
    printed = worker.log.strip().splitlines()
    assert lines is None or len(printed) == lines, worker.log
    assert "Traceback" not in worker.log
    assert not any(secret in worker.log for secret in SECRETS.values())
    return printed[-1]
