"""Kafka properties from a file and the environment: what is taken, what is refused; no secret is ever shown."""

import traceback
from pathlib import Path

import pytest
from confluent_kafka import Producer

from stream.access.credentials import connect, faust_options
from stream.environment import check_unknown
from stream.errors import ConfigError
from stream.kafka_config import OWN, PLAINTEXT, PROPERTIES, REGISTRY, SECRETS, VARIABLES, KafkaConfig, read_kafka_config

SASL = "security.protocol=SASL_SSL\nsasl.mechanisms=scram-sha-512\nsasl.username=eddy\n"
SECRET = "hunter2=hunter3"


def read(tmp_path: Path, text: str, **environ: str) -> KafkaConfig:
    path = tmp_path / "client.properties"
    path.write_text(text)
    return read_kafka_config(str(path), environ)


def test_a_file_as_confluent_writes_it_is_read(tmp_path: Path) -> None:
    """Comments, blank lines, spaces and '=' in a value; names and words in librdkafka's form."""
    config = read(tmp_path, f"# for shop\n\n {SASL}sasl.password = a=b \n")
    assert read(tmp_path, f"\ufeff{SASL}sasl.password=a=b".replace("\n", "\r\n")) == config  # an editor on Windows
    assert config.properties == {
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "eddy",
        "sasl.password": "a=b",
    }


def test_a_variable_replaces_the_files_line_and_suffices_alone(tmp_path: Path) -> None:
    """A secret can come from the environment, where no other user of the machine sees it."""
    config = read(tmp_path, SASL + "sasl.password=old", EDDY_KAFKA_SASL_PASSWORD="new", EDDY_KAFKA_CONFIG="x")
    assert config.properties["sasl.password"] == "new"
    assert read_kafka_config("", {"EDDY_KAFKA_SECURITY_PROTOCOL": "ssl"}).tls
    assert read_kafka_config("", {"EDDY_KAFKA_SASL_PASSWORD": ""}) == PLAINTEXT


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sasl.pasword=x", "nearest is sasl.password"),
        ("ssl.ca.locaton=x", "nearest is ssl.ca.location"),
        ("sasl.jaas.config=x", "use sasl.username and sasl.password"),
        ("ssl.truststore.location=x", "use ssl.ca.location"),
        ("security.protocol=tls", "must be one of plaintext, ssl, sasl_plaintext, sasl_ssl"),
        ("security.protocol=", "security.protocol is empty"),
        ("sasl.mechanism=GSSAPI", "must be one of PLAIN"),
        ("connections.max.idle.ms=1m", "whole number of ms"),
        ("ssl.ca.location=/nowhere/ca.pem", "/nowhere/ca.pem cannot be read"),
        ("sasl.username=eddy", "no effect with security.protocol=plaintext; set that to sasl_ssl"),
        ("security.protocol=sasl_ssl", "sasl.mechanism is missing"),
        (SASL, "sasl.password is missing.*EDDY_KAFKA_SASL_PASSWORD"),
        ("sasl.username=a\nsasl.username=b", "line 2: sasl.username is there a second time"),
        ("security.protocol=sasl_ssl\nsasl.mechanism=OAUTHBEARER", "enable.sasl.oauthbearer.unsecure.jwt is missing"),
        ("{}", "line 1 is not NAME=VALUE"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_write(tmp_path: Path, line: str, words: str) -> None:
    """A mistyped name would otherwise connect without TLS, or wait for a broker that closes the connection."""
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, line)


@pytest.mark.parametrize("name", OWN)
def test_what_eddy_sets_itself_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    """enable.auto.commit=true or another isolation level would break what docs/delivery.md promises."""
    with pytest.raises(ConfigError, match=rf"line 1: Eddy sets {name} itself \(.+\); remove the line"):
        read(tmp_path, f"{name}=x")


def test_a_missing_file_is_one_line() -> None:
    """The path is named."""
    with pytest.raises(ConfigError, match="--kafka-config /nowhere cannot be read"):
        read_kafka_config("/nowhere", {})


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"sasl.password: {SECRET}",
        f"hunter2\\\n{SECRET}",
        f"sasl.password={SECRET}\nsasl.password={SECRET}",
        f"sasl.password={SECRET}",
        f"security.protocol=sasl_ssl\nsasl.mechanism=PLAIN\nsasl.password={SECRET}",
        f"security.protocol=sasl_ssl\nsasl.password={SECRET}\nsasl.pasword={SECRET}",
    ],
)
def test_no_refusal_shows_a_secret(tmp_path: Path, text: str) -> None:
    """A broken line may hold a password, so it is named by its number."""
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert "hunter" not in "".join(traceback.format_exception(raised.value))


def test_neither_repr_nor_a_clients_error_shows_a_secret(tmp_path: Path) -> None:
    """Not the configuration's, not Faust's credentials', and not a client that cannot be made."""
    config = read(tmp_path, f"{SASL}sasl.password={SECRET}")
    assert SECRET not in repr(config) + str(config) + repr(faust_options(config))
    broken = KafkaConfig({**config.properties, "sasl.mechanism": SECRET})
    with pytest.raises(ConfigError, match="cannot use this configuration") as raised:
        connect(Producer, "127.0.0.1:9", broken, {})
    assert SECRET not in str(raised.value)


def test_every_variable_of_a_property_is_known() -> None:
    """A mistyped one is refused with the nearest name; those of a Kubernetes Service called eddy-kafka are not."""
    made = {"EDDY_KAFKA_SERVICE_HOST": "10.0.0.1", "EDDY_KAFKA_PORT_9092_TCP": "tcp://10.0.0.1:9092"}
    assert check_unknown(dict.fromkeys([*VARIABLES, "EDDY_KAFKA_CONFIG"], "x") | made) == []
    with pytest.raises(ConfigError, match=r"did you mean EDDY_KAFKA_SASL_PASSWORD\?") as raised:
        check_unknown({"EDDY_KAFKA_SASL_PASWORD": SECRET})
    assert SECRET not in str(raised.value)


def test_every_property_is_one_that_librdkafka_has() -> None:
    """A name with a typing mistake of our own would be refused by every client."""
    values = {
        "security.protocol": "ssl",
        "sasl.mechanism": "PLAIN",
        "ssl.endpoint.identification.algorithm": "https",
        "sasl.oauthbearer.method": "default",
        "metadata.max.age.ms": "1000",
        "connections.max.idle.ms": "1000",
        "sasl.oauthbearer.token.endpoint.url": "http://127.0.0.1:9",
    }
    for name in (name for name in PROPERTIES if not name.startswith(REGISTRY)):
        flag = "true" if name.startswith("enable.") else ""
        if name.endswith(".location"):
            continue  # librdkafka opens the file
        Producer({name: flag or values.get(name, "x"), "log_level": 0})


def test_the_security_page_names_every_property() -> None:
    """A reader finds there what the file may hold."""
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    assert [name for name in PROPERTIES if f"`{name}`" not in page] == []


def test_secrets_are_properties() -> None:
    """`redact` looks for the values of these names."""
    assert set(SECRETS) <= set(PROPERTIES)
