"""One KafkaConfig -> what librdkafka's clients and aiokafka's, which Faust has, need to be let in.

Both families get the same: the same authorities, certificate, host name check, mechanism and user. Every client of
confluent-kafka in Eddy is made by `connect`; a client that is made elsewhere would know nothing of TLS.
"""

import asyncio
import base64
import http.client
import logging
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import faust
import msgspec
from aiokafka.abc import AbstractTokenProvider
from confluent_kafka import KafkaException

from stream.errors import ConfigError
from stream.kafka_config import KafkaConfig, check_addresses

TOKEN_S = 10.0
"""Time limit of a request for a token."""

AGAIN_S = 2.0
"""The endpoint is asked again so long after it gave no token: aiokafka asks for one many times a second then."""

PASSING = (408, 429, *range(500, 600))
"""Statuses of a token endpoint that is out. With others, such as 401, it refuses this client."""

RENEW_AT = 0.8
"""A token is fetched again after this share of its life, as librdkafka does."""

C = TypeVar("C")

LIBRDKAFKA = logging.getLogger("librdkafka")
"""Takes what librdkafka's clients log. Without it they write lines of their own form to the terminal, such as two for
each fatal error, also with log_level 0 and into a log in JSON. It gets a line when the client is polled; an error that
Eddy raises itself mostly ends the client before."""


def connect(kind: Callable[[dict[str, Any]], C], broker: str, config: KafkaConfig, own: Mapping[str, Any]) -> C:
    """A client of confluent-kafka: `kind` is Producer, Consumer or an AdminClient.

    own  the properties that this client needs for its work
    Raises ConfigError if the broker is no address, or if librdkafka cannot use the configuration, such as a key with
    another password.
    """
    check_addresses(broker)
    try:
        return kind({"bootstrap.servers": broker, "logger": LIBRDKAFKA, **config.properties, **own})
    except KafkaException as exc:
        if config.tls:
            _tls(config)  # raises with the file's name; librdkafka says "PEM lib" for every key that it cannot read
        reason = config.redact(exc.args[0].str())
        raise ConfigError(
            f"a Kafka client cannot use this configuration ({reason}); see --kafka-config and docs/security.md"
        ) from None


def faust_options(config: KafkaConfig) -> dict[str, Any]:
    """Options of a Faust app. Raises ConfigError if a certificate or key cannot be used."""
    options: dict[str, Any] = {}
    credentials = _credentials(config)
    if credentials is not None:
        options["broker_credentials"] = credentials
    for name, option in (
        ("metadata.max.age.ms", "consumer_metadata_max_age_ms"),
        ("connections.max.idle.ms", "consumer_connections_max_idle_ms"),
    ):
        if name in config.properties:
            options[option] = int(config.properties[name])
    return options


def aiokafka_client(broker: str, config: KafkaConfig, answer_s: float) -> Any:
    """A client of aiokafka for requests that librdkafka does not have. Call it in an event loop. Raises ConfigError."""
    from aiokafka.client import AIOKafkaClient
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    return AIOKafkaClient(
        bootstrap_servers=[address.strip() for address in broker.split(",")],
        request_timeout_ms=int(answer_s * 1000),
        **credentials_to_aiokafka_auth(_credentials(config)),
    )


def _credentials(config: KafkaConfig) -> Any:
    """Faust's credentials; None for a broker without TLS and SASL."""
    context = _tls(config) if config.tls else None
    if not config.sasl:
        return None if context is None else faust.SSLCredentials(context)
    if config.mechanism == "OAUTHBEARER":
        return faust.auth.OAuthCredentials(oauth_cb=Tokens(config.properties), ssl_context=context)
    return faust.SASLCredentials(
        mechanism=config.mechanism,
        username=config.properties["sasl.username"],
        password=config.properties["sasl.password"],
        ssl_context=context,
    )


def _tls(config: KafkaConfig) -> ssl.SSLContext:
    given = config.properties
    try:
        context = ssl.create_default_context(cafile=given.get("ssl.ca.location"))
    except OSError as exc:  # SSLError too
        raise ConfigError(f"Kafka property ssl.ca.location: no PEM file of certificates ({exc})") from None
    context.check_hostname = given.get("ssl.endpoint.identification.algorithm") != "none"
    if given.get("enable.ssl.certificate.verification") == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "ssl.certificate.location" in given:
        password = given.get("ssl.key.password", "")  # a text: without one OpenSSL would ask on the terminal
        try:
            context.load_cert_chain(given["ssl.certificate.location"], given["ssl.key.location"], lambda: password)
        except OSError as exc:
            raise ConfigError(
                f"the key {given['ssl.key.location']} and certificate {given['ssl.certificate.location']} cannot be "
                f"used together ({config.redact(str(exc))}); check ssl.key.password and that they belong together"
            ) from None
    return context


def fetches_tokens(config: KafkaConfig) -> bool:
    """True if a token endpoint lets clients in, and not a password or a certificate."""
    return config.mechanism == "OAUTHBEARER" and config.properties.get("sasl.oauthbearer.method") == "oidc"


def token_outage(config: KafkaConfig) -> str | None:
    """Why nobody gets a token now; None if the token endpoint gives one or refuses, or if there is none.

    Without a new token Kafka refuses the old one, which says nothing of the user. It may take TOKEN_S.
    """
    if not fetches_tokens(config):
        return None
    try:
        _fetch_token(config.properties)
    except urllib.error.HTTPError as exc:
        return f"the token endpoint answers {exc.code}" if exc.code in PASSING else None
    except OSError as exc:
        return f"the token endpoint gives no token ({config.redact(str(getattr(exc, 'reason', exc)))})"
    return None


class Tokens(AbstractTokenProvider):
    """Gives aiokafka the tokens that librdkafka gets itself with the same properties (OAUTHBEARER).

    With sasl.oauthbearer.method=oidc: the client credentials grant at the token endpoint (RFC 6749, 4.4). Else an
    unsecured token (alg none), which only a test broker takes. It is called in the consumer thread's event loop.
    """

    def __init__(self, properties: Mapping[str, str]) -> None:
        self._properties = properties
        self._token, self._renew_s, self._expires_s = "", 0.0, 0.0
        self._failure = ""

    async def token(self) -> str:
        """Raises OSError without a token: aiokafka takes it for a broker that it cannot reach, and tries again."""
        asked_s = time.monotonic()
        if asked_s >= self._renew_s:
            fetch = _fetch_token if self._properties.get("sasl.oauthbearer.method") == "oidc" else _unsecured_token
            try:
                self._token, life_s = await asyncio.to_thread(fetch, self._properties)
                self._renew_s, self._expires_s = asked_s + life_s * RENEW_AT, asked_s + life_s
            except OSError as exc:
                self._renew_s, self._failure = asked_s + AGAIN_S, str(exc)
        if time.monotonic() >= self._expires_s:  # a question without an answer takes TOKEN_S
            raise ConnectionError(f"no token: {self._failure}")
        return self._token

    def extensions(self) -> dict[str, str]:
        pairs = self._properties.get("sasl.oauthbearer.extensions", "").split(",")
        return {name.strip(): value.strip() for name, _, value in (pair.partition("=") for pair in pairs) if name}


def _fetch_token(properties: Mapping[str, str]) -> tuple[str, float]:
    """A token of the endpoint, and its life in s. Raises OSError if it gives none."""
    form = {"grant_type": "client_credentials"}
    if "sasl.oauthbearer.scope" in properties:
        form["scope"] = properties["sasl.oauthbearer.scope"]
    user = f"{properties['sasl.oauthbearer.client.id']}:{properties['sasl.oauthbearer.client.secret']}"
    request = urllib.request.Request(
        properties["sasl.oauthbearer.token.endpoint.url"],
        urllib.parse.urlencode(form).encode(),
        {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}", "Accept": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TOKEN_S) as answer:
            answered = msgspec.json.decode(answer.read(), type=dict[str, Any])
        return str(answered["access_token"]), float(answered.get("expires_in", 300))
    except (http.client.HTTPException, msgspec.DecodeError, KeyError, TypeError, ValueError) as exc:
        raise ConnectionError("its answer has none") from exc


def _unsecured_token(properties: Mapping[str, str]) -> tuple[str, float]:
    """A token without a signature from sasl.oauthbearer.config, with librdkafka's names and defaults; its life in s."""
    words = dict(word.partition("=")[::2] for word in properties["sasl.oauthbearer.config"].split())
    life_s, now_s = float(words.get("lifeSeconds", 3600)), time.time()
    claims = {words.get("principalClaimName", "sub"): words.get("principal", ""), "iat": now_s, "exp": now_s + life_s}
    parts = (msgspec.json.encode(part) for part in ({"alg": "none"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + ".", life_s
