"""Why a Kafka cluster did not let us in, as one line that says what to do.

A refusal is permanent: neither waiting nor a restart helps, so it is a ConfigError (exit code 2). A cluster that is not
there is no refusal; `why_refused` and `refused` then return None.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from stream.access.credentials import connect, fetches_tokens, token_outage
from stream.access.listener import Listener, ask_listener
from stream.errors import ConfigError
from stream.kafka_config import KafkaConfig

NOT_ALLOWED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "a right on one of its topics",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "the right READ on its consumer group (--group)",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "the right WRITE on its transactional id (GROUP:WORKER_ID)",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "a right on the cluster",
}
"""Error code of the broker, the same in librdkafka and aiokafka -> what this user lacks."""

NOT_TAKEN = {
    KafkaError.INVALID_RECORD: "a topic with cleanup.policy=compact takes none without a key, as the dead letter of a "
    "message without a key is; set the topic's cleanup.policy to delete",
    KafkaError.INVALID_TIMESTAMP: "its time is outside message.timestamp.after.max.ms or before.max.ms of the topic; "
    "correct this machine's clock if it is ahead, and give the copy of a re-keyed topic the limits of the other one",
}
"""Error code of the broker for a record that it would refuse again and again -> why, and what to do."""

OTHERS_GROUP = "the consumer group is that of another application{}; give --group a name that no other one uses"

MOST_ERRORS = 100
"""A client reports errors as long as an outage lasts; the latest ones say why."""

SILENT_S = 1.0
"""After so long without a first answer a line reports what is waited for."""

NEW_TOKEN_S = 5.0
"""How long a client with a new token may take until Kafka lets it in or refuses it."""

QUICK = {"log_level": 0, "reconnect.backoff.max.ms": 1000}
"""With the default backoff, a cluster that is back is noticed 10 s late."""

AUTHENTICATION = KafkaError.SASL_AUTHENTICATION_FAILED

log = logging.getLogger(__name__)


class Admin(AdminClient):
    """An AdminClient that keeps what its connections report, so that `refusal` can say why there is no answer."""

    def __init__(self, broker: str, config: KafkaConfig, setup_s: float = 5.0) -> None:
        """Raises ConfigError if librdkafka cannot use the configuration."""
        self.broker, self.config = broker, config
        self._errors: deque[KafkaError] = deque(maxlen=MOST_ERRORS)
        self._asked = False
        own = QUICK | {"socket.connection.setup.timeout.ms": int(setup_s * 1000), "error_cb": self._errors.append}
        connect(super().__init__, broker, config, own)

    def described(self, answer_s: float, gives_up: bool = True) -> Any:
        """What the cluster says of itself and of its topics. Raises KafkaException without an answer in `answer_s`.

        gives_up  False if the caller asks again, for as long as it takes
        If the first question has no answer after SILENT_S, a warning reports that Eddy waits. A wrong protocol is then
        known already: raises ConfigError if the cluster refuses this client.
        """
        if self._asked:
            return self.list_topics(timeout=answer_s)
        self._asked = True
        try:
            return self.list_topics(timeout=min(SILENT_S, answer_s))
        except KafkaException:
            most = f"{answer_s:.0f}" if gives_up else "unlimited"
            log.warning("Kafka does not answer yet, Eddy waits for it: broker=%s most_s=%s", self.broker, most)
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        return self.list_topics(timeout=max(0.0, answer_s - SILENT_S))

    def refusal(self) -> ConfigError | None:
        """Why the cluster refused this client; None if it was not reached or has said nothing of the kind."""
        self.poll(0)
        return why_refused(self.broker, self.config, self._errors)

    def forget(self) -> bool:
        """Forget what the connections reported: it is no reason any more. True if they reported anything."""
        self.poll(0)
        reported = bool(self._errors)
        self._errors.clear()
        return reported


def why_refused(broker: str, config: KafkaConfig, errors: Iterable[KafkaError]) -> ConfigError | None:
    """The reason for which no connection to `broker` came about.

    errors  what librdkafka reported of the connections. Some mistakes it does not see: the first listener that accepts
            a connection is then asked what it speaks
    """
    listeners = ((address.strip(), ask_listener(address)) for address in broker.split(","))
    address, listener = next(((a, what) for a, what in listeners if what is not None), ("", None))
    if listener is None:
        return None
    wrong = _wrong_protocol(address, listener, config)
    if wrong is not None:
        return ConfigError(wrong)
    for error in errors:
        if error.code() == KafkaError._SSL:
            return ConfigError(_certificate(broker, error, config))
        if error.code() == KafkaError._AUTHENTICATION:
            if fetches_tokens(config) and (token_outage(config) or not _refuses_new_token(broker, config)):
                return None
            token = config.mechanism == "OAUTHBEARER"
            names = "sasl.oauthbearer.*" if token else "sasl.username, sasl.password and sasl.mechanism"
            return ConfigError(
                f"Kafka at {broker} refuses this user ({_reason(error, config)}); check {names} in --kafka-config and "
                "EDDY_KAFKA_*"
            )
        if "alert" in error.str():
            return ConfigError(
                f"Kafka at {broker} refuses this client's certificate ({_reason(error, config)}); give "
                "ssl.certificate.location and ssl.key.location, signed by an authority that the brokers trust"
            )
    return None


def _refuses_new_token(broker: str, config: KafkaConfig) -> bool:
    """Whether a client that has asked for its token now is refused, too.

    librdkafka presents a token from before an outage of the endpoint for 20 s and more after its end: a client asks for
    a new token every 10 s, and each question that fails is repeated with pauses. That the old one has expired says
    nothing of the user.
    """
    errors: list[KafkaError] = []
    client = connect(AdminClient, broker, config, QUICK | {"error_cb": errors.append})
    until_s = time.monotonic() + NEW_TOKEN_S
    while time.monotonic() < until_s:
        try:
            client.list_topics(timeout=0.5)
            return False
        except KafkaException:
            client.poll(0)
        if any(error.code() == KafkaError._AUTHENTICATION for error in errors):
            return True
    return False


def _certificate(broker: str, error: KafkaError, config: KafkaConfig) -> str:
    authority = config.properties.get("ssl.ca.location")
    checked = f"ssl.ca.location={authority}" if authority else "the authorities of this system"
    return (
        f"the certificate of Kafka at {broker} is not accepted with {checked} ({_reason(error, config)}); set "
        "ssl.ca.location to the PEM file of the authority that signed it, and --broker to a name that is in it"
    )


def _wrong_protocol(address: str, listener: Listener, config: KafkaConfig) -> str | None:
    """The line for a security.protocol or sasl.mechanism that is not the listener's; None if they may be."""
    if listener.tls is None:
        return None
    speaks, right = ("TLS", "ssl") if listener.tls else ("plain text", "plaintext")
    if listener.mechanisms is None:
        fits, right = listener.tls == config.tls, f"{right} or sasl_{right}"
    else:
        speaks += f" {'with' if listener.mechanisms else 'without'} SASL"
        right = f"sasl_{right}" if listener.mechanisms else right
        fits = right == config.protocol
    if not fits:
        return (
            f"the listener at {address} speaks {speaks}, but security.protocol is {config.protocol}: set it to {right} "
            "in --kafka-config or EDDY_KAFKA_SECURITY_PROTOCOL, or give --broker another listener"
        )
    if listener.mechanisms and config.mechanism not in listener.mechanisms:
        return (
            f"the listener at {address} has the SASL mechanisms {', '.join(listener.mechanisms)}, but sasl.mechanism "
            f"is {config.mechanism}"
        )
    return None


def _reason(error: KafkaError, config: KafkaConfig) -> str:
    """librdkafka's words without its address, its advice and how long it took."""
    text = re.sub(r"^\w+://\S+: |\(after \d+ms.*$|, verify that.*$|error:\w+:", "", error.str())
    return config.redact(" ".join(text.split()))


def refused(exc: BaseException, right: str | None = None) -> ConfigError | None:
    """The line for an error of a running client that neither time nor a restart mends; None if `exc` is none.

    exc    of confluent-kafka (KafkaException) or aiokafka (an error with an errno)
    right  the only right on a topic that the client uses, such as "READ on topic anomalies"
    """
    error: Any = exc.args[0] if isinstance(exc, KafkaException) else None
    code: int | None = error.code() if isinstance(error, KafkaError) else _aiokafka_code(exc)
    if right is not None and code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return ConfigError(f"this user lacks the right {right}; add the ACL (kafka-acls.sh): docs/security.md")
    if code is not None and code in NOT_ALLOWED:
        return ConfigError(
            f"Kafka does not allow it: this user lacks {NOT_ALLOWED[code]} ({_name(code)}); docs/security.md lists the "
            "rights, and `eddy topics check` with the worker's --kafka-config names those that a topic lacks"
        )
    if code in (AUTHENTICATION, KafkaError._AUTHENTICATION):
        return ConfigError("Kafka refuses this user: check the properties sasl.* of --kafka-config and EDDY_KAFKA_*")
    if code == KafkaError.INCONSISTENT_GROUP_PROTOCOL:
        return ConfigError(OTHERS_GROUP.format(" (INCONSISTENT_GROUP_PROTOCOL)"))
    if code is not None and code in NOT_TAKEN:
        return ConfigError(f"Kafka refused a record ({error.str()}): {NOT_TAKEN[code]}")
    return None


def _aiokafka_code(exc: BaseException) -> int | None:
    code = getattr(exc, "errno", None)
    return code if isinstance(code, int) and type(exc).__module__.startswith("aiokafka") else None


def _name(code: int) -> str:
    return str(KafkaError(code).name())
