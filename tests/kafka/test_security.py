"""A broker with TLS and SASL: every kind of client is let in, and who is not let in learns why in one line."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType

from stream.access.publish import CONNECT_S
from stream.access.refusal import Admin
from stream.errors import ConfigError
from stream.kafka.topics import check_topics
from stream.kafka_config import KafkaConfig
from tests.kafka.lane import ROOT, clicks, wait_until
from tests.kafka.secured import (
    KINDS,
    RIGHTS,
    SECRETS,
    USER,
    Cluster,
    Secure,
    properties,
    refusal,
    secure_lane,
    written,
)
from tests.tokens import TokenEndpoint

WAYS = ["certificate", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "unsecured token", "oidc"]


@pytest.mark.parametrize("how", WAYS)
def test_a_worker_decides_on_a_secured_cluster_with_the_rights_of_the_documents(
    secure: Secure, cluster: Cluster, token_url: str, how: str
) -> None:
    """Consumer, producer, changelog reader and admin client are all let in, and no secret is in the log or in `ps`."""
    secure.grant(RIGHTS)
    config = written(secure.directory / "client.properties", properties(cluster, how, token_url))
    secure.produce(clicks(200, seed=1))
    broker = cluster.kafka.tls if how == "certificate" else cluster.kafka.sasl
    worker = secure.start(broker=broker, kafka_config=config)
    secure.wait_for_clicks()
    command = Path(f"/proc/{worker.process.pid}/cmdline").read_bytes()
    assert worker.end(signal.SIGTERM) == 0, worker.log
    assert len(secure.read(secure.topics.recommendations)) == 200
    assert not any(secret in worker.log or secret.encode() in command for secret in SECRETS.values())


def test_a_restarted_worker_recovers_with_the_password_from_the_environment(
    secure: Secure, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process reads offsets and states through the same door; every decision is the oracle's."""
    given = properties(cluster, "SCRAM-SHA-512")
    monkeypatch.setenv("EDDY_KAFKA_SASL_PASSWORD", given.pop("sasl.password"))
    config = written(secure.directory / "client.properties", given)
    secure.grant(RIGHTS)
    for seed in (1, 2):
        secure.produce(clicks(300, users=40, seed=seed))
        worker = secure.start(broker=cluster.kafka.sasl, kafka_config=config, worker_id="0")
        secure.wait_for_clicks()
        assert worker.end(signal.SIGTERM) == 0, worker.log
    secure.assert_as_if_nothing_had_happened()


def test_a_password_that_changes_ends_a_worker_only_when_its_connections_break(
    own_cluster: Cluster, name: str, model: Path, tmp_path: Path
) -> None:
    """Kafka does not ask again on an open connection. Then the worker ends with 2 and one line, not with endless tries,
    and with the new password the next one continues where it was."""
    given = properties(own_cluster, "SCRAM-SHA-512")
    config = written(tmp_path / "client.properties", given)
    with secure_lane(own_cluster, name, model, tmp_path) as secure:
        secure.grant(RIGHTS)
        worker = secure.start(broker=own_cluster.kafka.sasl, kafka_config=config, worker_id="0")
        secure.produce(clicks(300, users=40, seed=1))
        secure.wait_for_clicks()
        own_cluster.set_password("hunter4")
        secure.produce(clicks(300, users=40, seed=2))
        secure.wait_for_clicks()
        own_cluster.restart()
        assert re.search("refuses this user .* check sasl.username, sasl.password", refusal(worker))
        secure.produce(clicks(300, users=40, seed=3))
        written(config, given | {"sasl.password": "hunter4"})
        worker = secure.start(broker=own_cluster.kafka.sasl, kafka_config=config, worker_id="0")
        secure.wait_for_clicks()
        assert worker.end(signal.SIGTERM) == 0, worker.log
        secure.assert_as_if_nothing_had_happened()


def test_a_worker_waits_for_a_token_endpoint_that_is_out(
    cluster: Cluster, name: str, model: Path, tmp_path: Path
) -> None:
    """Kafka closes its connections when its last token has expired: nothing lets it in before the endpoint answers
    again. That is an outage, and no wrong password."""
    endpoint = TokenEndpoint(SECRETS["client"], life_s=8)
    config = written(tmp_path / "client.properties", properties(cluster, "oidc", endpoint.url))
    with secure_lane(cluster, name, model, tmp_path) as secure:
        secure.grant(RIGHTS)
        worker = secure.start(broker=cluster.kafka.sasl, kafka_config=config, worker_id="0")
        secure.produce(clicks(300, users=40, seed=1))
        secure.wait_for_clicks()
        endpoint.out = True
        worker.wait_for("the token endpoint answers 503")
        secure.produce(clicks(300, users=40, seed=2))
        endpoint.out = False
        secure.wait_for_clicks()
        worker.wait_for("Kafka answers again")
        assert worker.end(signal.SIGTERM) == 0, worker.log
        secure.assert_as_if_nothing_had_happened()
    endpoint.close()


def test_a_token_from_before_an_outage_of_the_endpoint_is_no_wrong_one_when_the_endpoint_answers_again(
    cluster: Cluster,
) -> None:
    """The broker closes the connection when the token expires, and refuses the token. librdkafka presents it for some
    20 s after the endpoint is back, and a worker looks twice in that time."""
    endpoint = TokenEndpoint(SECRETS["client"], life_s=4)
    admin = Admin(cluster.kafka.sasl, KafkaConfig(properties(cluster, "oidc", endpoint.url)))
    admin.described(CONNECT_S)
    endpoint.out = True

    def refused() -> bool:
        try:
            admin.list_topics(timeout=1.0)
        except KafkaException:
            admin.poll(0)
        return any("invalid_token" in error.str() for error in admin._errors)

    wait_until(refused, "Kafka refuses the token")
    assert admin.refusal() is None
    endpoint.out = False
    assert admin.refusal() is None
    endpoint.close()


def test_a_token_that_kafka_refuses_while_the_endpoint_answers_is_refused(cluster: Cluster) -> None:
    """A new token is no better, and waiting does not help: here the endpoint's clock is an hour ahead."""
    endpoint = TokenEndpoint(SECRETS["client"], ahead_s=3600)
    admin = Admin(cluster.kafka.sasl, KafkaConfig(properties(cluster, "oidc", endpoint.url)))
    with pytest.raises(ConfigError, match=r"refuses this user .*invalid_token.* check sasl\.oauthbearer"):
        admin.described(CONNECT_S)
    endpoint.close()


def eddy(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stream.ops.cli", *map(str, arguments)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_topics_and_replay_take_the_same_file(secure: Secure, cluster: Cluster) -> None:
    """A shop's topics can be made, checked and filled without any plain listener."""
    name = f"{secure.name}x"
    bindings = [
        AclBinding(KINDS["topic"], name, ResourcePatternType.PREFIXED, USER, "*", operation, AclPermissionType.ALLOW)
        for operation in (AclOperation.CREATE, AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS)
    ]
    for future in cluster.admin.create_acls(bindings).values():
        future.result()
    config = written(secure.directory / "c", properties(cluster, "SCRAM-SHA-512"))
    to = ("--broker", cluster.kafka.sasl, "--kafka-config", config)
    fields = msgspec.structs.fields(type(secure.topics))
    topics = [part for f in fields for part in (f"--{f.name.replace('_', '-')}-topic", f"{name}-{f.name}")]
    made = eddy("topics", "create", *to, *topics, "--feedback-topic", f"{name}-feedback", "--partitions", 2)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("created, 2 partitions") == 10
    assert eddy("topics", "check", *to, *topics).returncode == 0
    log = secure.directory / "log.csv"
    log.write_text("user_id,item_id,timestamp\nu1,i1,1700000000\nu2,i2,1700000001\n")
    sent = eddy("replay", log, *to, "--topic", f"{name}-clicks", "--speed", "max")
    assert sent.returncode == 0, sent.stderr
    assert len(secure.read(f"{name}-clicks")) == 2


# -- who is not let in -------------------------------------------------------------------------------------------------


def mistakes(cluster: Cluster, token_url: str) -> dict[str, tuple[str, dict[str, str], str]]:
    """A mistake -> broker, properties, and words of the line that it costs."""
    kafka = cluster.kafka
    certificate, scram = properties(cluster, "certificate"), properties(cluster, "SCRAM-SHA-512")
    plain = {**scram, "sasl.mechanism": "PLAIN"}
    unencrypted = {name: value for name, value in plain.items() if not name.startswith("ssl.")}
    unencrypted["security.protocol"] = "sasl_plaintext"
    unknown = {name: value for name, value in certificate.items() if name.startswith(("security", "ssl.ca"))}
    other = {"ssl.ca.location": str(cluster.files / "other.pem")}
    stranger = {f"ssl.{what}.location": str(cluster.files / f"stranger.{end}") for what, end in ENDS}
    return {
        "plain text to TLS": (kafka.tls, {}, "speaks TLS, but security.protocol is plaintext: set it to ssl"),
        "plain text to SASL": (kafka.sasl, {}, "speaks TLS with SASL, but .* is plaintext: set it to sasl_ssl"),
        "no SASL": (kafka.notls, {}, "speaks plain text with SASL, but .* set it to sasl_plaintext"),
        "TLS to plain text": (kafka.address, certificate, "speaks plain text without SASL, but .* set it to plaintext"),
        "SASL over TLS to SASL": (kafka.notls, scram, "speaks plain text with SASL, but .* set it to sasl_plaintext"),
        "SASL without TLS": (kafka.sasl, unencrypted, "speaks TLS with SASL, but .* set it to sasl_ssl"),
        "TLS to SASL": (kafka.sasl, unknown, "speaks TLS with SASL, but security.protocol is ssl: set it to sasl_ssl"),
        "wrong authority": (kafka.tls, certificate | other, "certificate of Kafka at .* is not accepted with .*other"),
        "no certificate": (kafka.tls, unknown, "refuses this client's certificate"),
        "foreign certificate": (kafka.tls, unknown | stranger, "refuses this client's certificate"),
        "wrong password, SCRAM": (kafka.sasl, scram | {"sasl.password": "hunter3"}, "refuses this user"),
        "wrong password, PLAIN": (kafka.sasl, plain | {"sasl.password": "hunter3"}, "refuses this user"),
        "wrong mechanism": (kafka.notls, {**unencrypted, "sasl.mechanism": "SCRAM-SHA-512"}, "has the .* PLAIN, but"),
        "wrong key password": (kafka.tls, certificate | {"ssl.key.password": "hunter3"}, "check ssl.key.password"),
        "wrong client secret": (
            kafka.sasl,
            properties(cluster, "oidc", token_url) | {"sasl.oauthbearer.client.secret": "hunter3"},
            "refuses this user .* check sasl.oauthbearer",
        ),
        "nobody there": ("127.0.0.1:9", certificate, "no Kafka answers at 127.0.0.1:9"),
    }


ENDS = (("certificate", "pem"), ("key", "key"))


def test_each_mistake_is_one_line_that_names_it(secure: Secure, cluster: Cluster, token_url: str) -> None:
    """A closed connection has a dozen causes; the line has the one that it was, and no secret."""
    cases = mistakes(cluster, token_url)

    def line(case: tuple[str, dict[str, str], str]) -> str:
        with pytest.raises(ConfigError) as raised:
            check_topics(case[0], secure.topics, KafkaConfig(case[1]))
        return str(raised.value)

    with ThreadPoolExecutor(len(cases)) as pool:  # each waits for 6 s
        lines = dict(zip(cases, pool.map(line, cases.values()), strict=True))
    wrong = {mistake: lines[mistake] for mistake, case in cases.items() if not re.search(case[2], lines[mistake])}
    assert not wrong
    assert not [line for line in lines.values() if "hunter" in line or "\n" in line]


SILENT = {
    "init --topic clicks": "10",
    "topics check": "6",
    "topics create --partitions 2": "6",
    "sink redis --url redis://127.0.0.1:9": "unlimited",
    "sink postgres --url postgresql://127.0.0.1:9/shop": "unlimited",
    "sink parquet --directory none": "unlimited",
    "sink avro --schema-registry http://127.0.0.1:9": "unlimited",
    "sink webhook --url http://127.0.0.1:9": "unlimited",
    f"worker --model {ROOT}/models/shop/1 --http-port 0": "unlimited",
}
"""Command -> how many seconds it waits for a first answer, by its own line."""


@pytest.mark.parametrize("words", SILENT)
def test_a_command_says_what_it_waits_for_and_soon_which_settings_are_missing(words: str, cluster: Cluster) -> None:
    """A secured cluster does not answer a client without security settings: it is not silence for CONNECT_S.

    The line about waiting comes first, and the cause as soon as the listener has said what it speaks.
    """
    began_s = time.monotonic()
    done = eddy(*words.split(), "--broker", cluster.kafka.sasl)
    took_s = time.monotonic() - began_s
    *before, waits, cause = done.stderr.strip().splitlines()
    said = f"Kafka does not answer yet, Eddy waits for it: broker={cluster.kafka.sasl} most_s={SILENT[words]}"
    assert waits.endswith(said)
    assert not [line for line in before if "Kafka" in line]  # a worker's lines about its model
    assert f"eddy: the listener at {cluster.kafka.sasl} speaks TLS with SASL, but security.protocol is" in cause
    assert "set it to sasl_ssl in --kafka-config or EDDY_KAFKA_SECURITY_PROTOCOL" in cause
    assert (done.returncode, done.stdout) == (2, "")
    assert took_s < CONNECT_S, took_s


def test_a_worker_that_is_not_let_in_ends_with_one_line(
    secure: Secure, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, because no restart helps; `eddy replay` too. The line before it reports the waiting."""
    assert "speaks TLS" in refusal(secure.start(broker=cluster.kafka.tls), 2)
    config = written(secure.directory / "c", properties(cluster, "PLAIN"))
    monkeypatch.setenv("EDDY_KAFKA_SASL_PASSWORD", SECRETS["key"])
    assert "refuses this user" in refusal(secure.start(broker=cluster.kafka.sasl, kafka_config=config), 2)
    log = secure.directory / "log.csv"
    log.write_text("user_id,item_id,timestamp\nu1,i1,1700000000\n")
    sent = eddy("replay", log, "--broker", cluster.kafka.sasl, "--kafka-config", config)
    assert sent.returncode == 2
    assert "refuses this user" in sent.stderr.strip().splitlines()[-1]
