"""How Eddy connects to a secured Kafka: librdkafka's property names, from a file and the environment, for all clients.

The file is --kafka-config: one `name=value` a line, `#` starts a comment. It has also the properties of the Schema
Registry's client, with schema.registry. before their names. A variable EDDY_KAFKA_SASL_PASSWORD is the property
sasl.password and replaces the file's. Only properties that librdkafka and aiokafka both can follow are known:
a worker has clients of both, and they must agree.

The rule that must not break: no value of SECRETS is in an error, a log line or a repr. There is no option for a secret,
because every user of a machine can read the command lines of its processes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from stream.errors import ConfigError

ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
"""host:port, or [IPv6]:port. Kafka's own files have a protocol before it, which only librdkafka understands."""

PROTOCOLS = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
REGISTRY = "schema.registry."
"""Begin of the properties of the connection to the Schema Registry; the rest is the name that its client has."""

TLS_FILES = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")
FILES = (*TLS_FILES, *(REGISTRY + name for name in TLS_FILES))
SECRETS = (
    "sasl.password",
    "ssl.key.password",
    "sasl.oauthbearer.client.secret",
    REGISTRY + "basic.auth.user.info",
    REGISTRY + "ssl.key.password",
)
FLAGS = ("enable.ssl.certificate.verification", "enable.sasl.oauthbearer.unsecure.jwt")
NUMBERS = ("metadata.max.age.ms", "connections.max.idle.ms")
CHOICES = {
    "security.protocol": PROTOCOLS,
    "sasl.mechanism": MECHANISMS,
    "ssl.endpoint.identification.algorithm": ("https", "none"),
    "sasl.oauthbearer.method": ("default", "oidc"),
}
PROPERTIES = (
    *CHOICES,
    *FILES,
    *SECRETS,
    *FLAGS,
    *NUMBERS,
    "sasl.username",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.token.endpoint.url",
)
"""Every property that Eddy takes."""

ALIASES = {"sasl.mechanisms": "sasl.mechanism"}

OWN = {
    "bootstrap.servers": "give --broker",
    "metadata.broker.list": "give --broker",
    "client.id": "Eddy names its clients by the worker id",
    "group.id": "give --group",
    "group.instance.id": "it is made of the worker id; give --worker-id",
    "transactional.id": "it is made of the group and the worker id",
    "transaction.timeout.ms": "it follows --session-timeout-s",
    "session.timeout.ms": "give --session-timeout-s",
    "heartbeat.interval.ms": "it is 300 ms, so that a rebalance is noticed at once",
    "isolation.level": "a worker must read committed clicks only, or it decides clicks that were rolled back",
    "enable.auto.commit": "offsets are committed by the transaction that holds the decisions",
    "auto.offset.reset": "the position of a worker is that of its changelog",
    "enable.idempotence": "the producers are idempotent always",
    "acks": "the producers wait for all replicas always",
    "partitioner": "users' clicks and states must be in the partitions that the Java client chooses",
}
"""Properties that Eddy sets itself, and why or by what."""

FOREIGN = {
    "sasl.jaas.config": "sasl.username and sasl.password",
    "ssl.truststore.location": "ssl.ca.location, a PEM file",
    "ssl.truststore.certificates": "ssl.ca.location, a PEM file",
    "ssl.keystore.location": "ssl.certificate.location and ssl.key.location, PEM files",
    "ssl.keystore.password": "ssl.key.password",
    "ssl.keystore.key": "ssl.key.location, a PEM file",
    "ssl.ca.pem": "ssl.ca.location, a PEM file",
    "ssl.certificate.pem": "ssl.certificate.location, a PEM file",
    "ssl.key.pem": "ssl.key.location, a PEM file",
}
"""Properties of the Java client, and some that aiokafka cannot follow -> what to write instead."""

PREFIX = "EDDY_KAFKA_"
NAME = re.compile(r"[a-z]+(\.[a-z]+)+")


@dataclass(frozen=True)
class KafkaConfig:
    """Checked properties by their librdkafka names. The repr shows none of them.

    properties  of Kafka's clients. A missing one has librdkafka's default; names are of PROPERTIES
    registry    of the Schema Registry's client, by its own names, as basic.auth.user.info
    """

    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    registry: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def protocol(self) -> str:
        return self.properties.get("security.protocol", "plaintext")

    @property
    def tls(self) -> bool:
        return self.protocol.endswith("ssl")

    @property
    def sasl(self) -> bool:
        return self.protocol.startswith("sasl")

    @property
    def mechanism(self) -> str:
        return self.properties.get("sasl.mechanism", "")

    def redact(self, text: str) -> str:
        """`text` of a library, in which a secret's value is replaced by its property's name."""
        given = {**self.properties, **{f"{REGISTRY}{name}": value for name, value in self.registry.items()}}
        for name in SECRETS:
            if given.get(name):
                text = text.replace(given[name], f"<{name}>")
        return text


PLAINTEXT = KafkaConfig()
"""A broker without TLS and SASL."""


LONGEST_NAME = 255
"""Characters of a group or a worker id. Kafka's protocol takes 32,767 bytes, of both together."""


def check_name(setting: str, value: str) -> None:
    """Raise ConfigError unless Kafka takes the value of a setting as a name, and as the same one that was meant."""
    if value != value.strip():
        raise ConfigError(
            f"setting {setting} is {value!r}, with a blank at an end: to Kafka it would be another name; remove it"
        )
    if not value.isprintable():  # Python reads a byte that is not UTF-8 as half of a surrogate pair
        raise ConfigError(f"setting {setting} is {value!r}; it must be printable characters in UTF-8")
    if len(value) > LONGEST_NAME:
        raise ConfigError(f"setting {setting} has {len(value)} characters; it must have at most {LONGEST_NAME}")


def check_addresses(broker: str) -> None:
    """Raise ConfigError unless a setting of brokers is host:port[,host:port...]."""
    for address in broker.split(","):
        parts = ADDRESS.fullmatch(address.strip())
        if parts is None or not 0 < int(parts[2]) < 65_536:
            raise ConfigError(
                f"setting broker has {address.strip()!r}; it must be host:port[,host:port...], without a protocol and "
                "with a port from 1 to 65535"
            )


def kafka_variable(name: str) -> str:
    """The environment variable of a property: `sasl.password` -> `EDDY_KAFKA_SASL_PASSWORD`."""
    return PREFIX + name.upper().replace(".", "_")


VARIABLES = {kafka_variable(name): ALIASES.get(name, name) for name in (*PROPERTIES, *ALIASES)}
"""Environment variable -> property."""


def read_kafka_config(path: str, environ: Mapping[str, str]) -> KafkaConfig:
    """Read the properties of the file at `path` ("" for none) and those of the environment, which have priority.

    Raises ConfigError with one line that names the file's line or the property, and never a secret.
    """
    found = _read_file(Path(path)) if path else {}
    found |= {name: environ[variable] for variable, name in VARIABLES.items() if environ.get(variable)}
    checked = {name: _checked(name, value) for name, value in found.items()}
    registry = {name.removeprefix(REGISTRY): value for name, value in checked.items() if name.startswith(REGISTRY)}
    config = KafkaConfig({name: value for name, value in checked.items() if not name.startswith(REGISTRY)}, registry)
    _check_together(config)
    return config


HTTP_URL = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(/[^\s@,]*)?")


def check_registry_url(urls: str) -> None:
    """Raise ConfigError, without the text, if it has a password, which all users of the machine could see."""
    for url in filter(None, urls.split(",")):
        if not HTTP_URL.fullmatch(url.strip()):
            raise ConfigError(
                "setting schema_registry must be http(s)://host[:port][/path], without a user: name and password are "
                "schema.registry.basic.auth.user.info in --kafka-config"
            )


def _read_file(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise ConfigError(f"--kafka-config {path} cannot be read ({reason})") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        where = f"--kafka-config {path}, line {number}"
        if not equals or (not NAME.fullmatch(name) and name not in OWN):  # not shown: it may be a secret
            raise ConfigError(f"{where} is not NAME=VALUE with the name of a property; docs/security.md has examples")
        name = _known(name, where)
        if name in found:
            raise ConfigError(f"{where}: {name} is there a second time; keep one")
        found[name] = value
    return found


def _known(name: str, where: str) -> str:
    """The property of this name. Raises ConfigError that says what to write instead."""
    name = ALIASES.get(name, name)
    if name in OWN:
        raise ConfigError(f"{where}: Eddy sets {name} itself ({OWN[name]}); remove the line")
    if name in FOREIGN:
        raise ConfigError(f"{where}: {name} is not a property that all of Eddy's clients know; use {FOREIGN[name]}")
    if name not in PROPERTIES:
        nearest = get_close_matches(name, PROPERTIES, 1, cutoff=0.0)[0]
        raise ConfigError(f"{where}: {name} is not a property of Eddy; the nearest is {nearest} (see docs/security.md)")
    return name


def _checked(name: str, value: str) -> str:
    """The value in librdkafka's form. Raises ConfigError; no known property has an empty value."""
    if not value:
        raise ConfigError(f"Kafka property {name} is empty; give it a value or remove it")
    if name in CHOICES:
        allowed = {choice.lower(): choice for choice in CHOICES[name]}
        if value.lower() not in allowed:
            raise ConfigError(f"Kafka property {name} is {value!r}; it must be one of {', '.join(CHOICES[name])}")
        return allowed[value.lower()]
    if name in FLAGS and value.lower() not in ("true", "false"):
        raise ConfigError(f"Kafka property {name} is {value!r}; it must be true or false")
    if name in NUMBERS and not (value.isdecimal() and 0 < int(value) <= 86_400_000):
        raise ConfigError(f"Kafka property {name} is {value!r}; it must be a whole number of ms, at most 86400000")
    if name in FILES:
        try:
            with Path(value).open("rb"):
                pass
        except OSError as exc:
            raise ConfigError(f"Kafka property {name}: {value} cannot be read ({exc.strerror})") from None
    return value.lower() if name in FLAGS else value


def _check_together(config: KafkaConfig) -> None:
    """Refuse properties that have no effect with this protocol, and a protocol that lacks one. Raises ConfigError."""
    given = config.properties
    for starts, used, protocols in (
        (("ssl.", "enable.ssl."), config.tls, "ssl or sasl_ssl"),
        (("sasl.", "enable.sasl."), config.sasl, "sasl_ssl or sasl_plaintext"),
    ):
        idle = [name for name in given if name.startswith(starts) and not used]
        if idle:
            raise ConfigError(
                f"Kafka property {idle[0]} has no effect with security.protocol={config.protocol}; set that to "
                f"{protocols}"
            )
    for name in _needed(config):
        if name not in given:
            raise ConfigError(
                f"Kafka property {name} is missing, which security.protocol={config.protocol} needs here; write it "
                f"into --kafka-config or set {kafka_variable(name)}"
            )


def _needed(config: KafkaConfig) -> tuple[str, ...]:
    """The properties without which this protocol and mechanism cannot work."""
    given = config.properties
    pair = ("ssl.certificate.location", "ssl.key.location")
    certificate = pair if any(name in given for name in (*pair, "ssl.key.password")) else ()
    if not config.sasl:
        return certificate
    if config.mechanism != "OAUTHBEARER":
        return (*certificate, "sasl.mechanism", "sasl.username", "sasl.password")
    if given.get("sasl.oauthbearer.method") == "oidc":
        return (
            *certificate,
            "sasl.oauthbearer.client.id",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.token.endpoint.url",
        )
    return (*certificate, "enable.sasl.oauthbearer.unsecure.jwt", "sasl.oauthbearer.config")
