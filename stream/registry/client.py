"""The client of the Schema Registry: schemas by their ids, new schemas, and what is said while there is no answer.

A registry that is down is no error of a worker, as with Kafka: NoRegistry says that a message may be good and has to be
read again later. A registry that refuses the credentials is one at start; later it is waited for too, because
credentials are changed while workers run.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from stream.errors import BadClick, ConfigError, NoRegistry
from stream.kafka_config import KafkaConfig
from stream.meter import Meter

ANSWER_S = 3.0
"""How long one answer may take."""

PAUSE_S = 1.0
"""Pause before a registry is asked again that did not answer."""

REMIND_S = 30.0
"""How often the log says that there is no answer."""

MOST_REFERENCES = 200
"""Schemas that one schema may need."""

NOT_FOUND = 40_403
"""Error code: there is no schema with this id."""

NO_SUCH_ID = {400, 422}
"""HTTP statuses with which some registries refuse an id that they could never have given, with an error code. A proxy
in front of them answers with these, too, and without a code."""

NOT_TAKEN = {
    401: "check schema.registry.basic.auth.user.info in --kafka-config or its variable",
    403: "allow this user to write the subject, or register the schema by hand",
    409: "it is not compatible with those that the subject has: delete the subject there, or write to another topic",
    422: "the registry takes no such schema, or is read-only",
}
"""HTTP status of the answer to a new schema -> what to do; waiting does not help."""

log = logging.getLogger(__name__)


class Texts(NamedTuple):
    """A schema, as the registry has it.

    form   "avro", "protobuf" or another one of the registry
    text   JSON (Avro); the text of a .proto file, or a FileDescriptorProto in base64 (Protobuf)
    needs  name -> text of the schemas that it refers to, each one after those that it needs itself
    """

    form: str
    text: str
    needs: dict[str, str]


class Registry:
    """A connection to the registry. Its methods may be called in any thread.

    url      http(s)://host:port/path, or several with commas between them, of which the first that answers counts
    config   has the properties schema.registry.* of the connection
    meter    gets the requests without an answer
    Raises ConfigError if the client cannot use them.
    """

    def __init__(
        self,
        url: str,
        config: KafkaConfig,
        meter: Meter | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._config = config
        self._meter = meter or Meter()
        self._meter.count("registry_failures", 0)
        self._clock_s = clock_s
        self._since_s: float | None = None  # since when there is no answer
        self._said_s = 0.0
        properties = {"url": url, "max.retries": 0, "timeout": ANSWER_S, **config.registry}
        try:
            self._client = SchemaRegistryClient(properties)
        except (ValueError, TypeError, OSError) as exc:  # OSError: files of certificates, and SSLError
            raise ConfigError(
                f"the Schema Registry's client cannot use this configuration ({config.redact(str(exc))}); see "
                "--schema-registry, and --kafka-config for schema.registry.*"
            ) from None

    def schema(self, number: int) -> Texts:
        """The schema with this id. Raises BadClick if there is none, NoRegistry if there is no answer."""
        self._client.clear_caches()  # they do not tell apart the formats of one schema; Framed keeps what it has made
        found = self._ask(self._client.get_schema, number)
        form = (found.schema_type or "AVRO").lower()
        if form == "protobuf":
            self._client.clear_caches()
            found = self._ask(self._client.get_schema, number, fmt="serialized")
        needs: dict[str, str] = {}
        self._add_needs(found, form, needs, [])
        return Texts(form, found.schema_str or "", needs)

    def newest(self, subject: str) -> tuple[int, Texts]:
        """The id and the newest schema of a subject. Raises BadClick if it has none, NoRegistry without an answer."""
        number = int(self._ask(self._client.get_latest_version, subject).schema_id)
        return number, self.schema(number)

    def check(self) -> None:
        """Ask for a schema that cannot exist. Raises NoRegistry, or ConfigError if waiting does not help."""
        try:
            self._client.get_schema(0)
        except SchemaRegistryError as exc:
            if exc.http_status_code == 401:
                raise ConfigError(
                    f"the Schema Registry at {self.url} refuses this client (HTTP status 401); check "
                    "schema.registry.basic.auth.user.info in --kafka-config or its variable"
                ) from None
            if exc.http_status_code == 404 and exc.error_code != NOT_FOUND:
                raise ConfigError(
                    f"--schema-registry {self.url} is no Schema Registry: it has no /schemas/ids; some registries need "
                    "a path, as /apis/ccompat/v7"
                ) from None
            if exc.http_status_code not in (403, 404):  # 403: perhaps only for an id that is nobody's
                self._silent(exc)
        except Exception as exc:  # of the HTTP library, which differs between versions of the client
            if _of_tls(exc):
                raise ConfigError(
                    f"the Schema Registry at {self.url} has a certificate that is not trusted ({exc}); check "
                    "schema.registry.ssl.ca.location"
                ) from None
            self._silent(exc)
        self._answered()

    def register(self, subject: str, text: str) -> int:
        """The id of an Avro schema under a subject, where it is registered if it is not there yet.

        Raises ConfigError if the registry does not take it, NoRegistry without an answer.
        """
        schema = Schema(text, "AVRO")
        try:
            try:
                number = self._client.lookup_schema(subject, schema).schema_id  # needs no right to write
            except SchemaRegistryError as exc:
                if exc.http_status_code != 404:
                    raise
                number = self._client.register_schema(subject, schema)
        except SchemaRegistryError as exc:
            if exc.http_status_code in NOT_TAKEN:
                raise ConfigError(
                    f"the Schema Registry at {self.url} does not take the schema of subject {subject} "
                    f"({self._reason(exc)}): {NOT_TAKEN[exc.http_status_code]}"
                ) from None
            self._silent(exc)
        except Exception as exc:  # of the HTTP library
            self._silent(exc)
        self._answered()
        return int(number)

    def wait(self) -> None:
        """Return when the registry answers, with a warning meanwhile. Raises ConfigError as `check` does."""
        while True:
            try:
                self.check()
                return
            except NoRegistry:
                time.sleep(PAUSE_S)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _add_needs(self, schema: Schema, form: str, needs: dict[str, str], above: list[str]) -> None:
        """Add the texts of the schemas that `schema` refers to. above: names of those that refer to it."""
        for reference in schema.references or []:
            if reference.name in needs or reference.name in above:
                continue
            if len(needs) + len(above) >= MOST_REFERENCES:
                raise BadClick("unusable_schema", f"a schema refers to more than {MOST_REFERENCES} others")
            options = {"fmt": "serialized"} if form == "protobuf" else {}
            of_version = self._ask(self._client.get_version, reference.subject, version=reference.version, **options)
            self._add_needs(of_version.schema, form, needs, [*above, reference.name])
            needs[reference.name] = of_version.schema.schema_str or ""

    def _ask(self, call: Callable[..., Any], of: Any, **options: Any) -> Any:
        """The registry's answer. Raises NoRegistry without one, and BadClick if it has no such schema."""
        try:
            found = call(of, **options)
        except SchemaRegistryError as exc:
            refused = exc.http_status_code in NO_SUCH_ID and (exc.error_code or -1) > 0
            if exc.http_status_code != 404 and not refused:
                self._silent(exc)
            self._answered()
            raise BadClick("unknown_schema", f"the Schema Registry has no schema {of}") from None
        except Exception as exc:  # of the HTTP library, or an answer that is no JSON: not a fault of the message
            self._silent(exc)
        self._answered()
        return found

    def _silent(self, why: Exception) -> None:
        """Count and log a request without a useful answer. Raises NoRegistry."""
        self._meter.count("registry_failures")
        now_s = self._clock_s()
        reason = f"{type(why).__name__}: {self._reason(why)}"
        if self._since_s is None or now_s - self._said_s >= REMIND_S:
            self._since_s = now_s if self._since_s is None else self._since_s
            self._said_s = now_s
            log.warning(
                "the Schema Registry does not answer, Eddy waits for it: url=%s waited_s=%.0f reason=%s",
                self.url,
                now_s - self._since_s,
                reason,
            )
        raise NoRegistry(f"the Schema Registry at {self.url} does not answer ({reason})")

    def _reason(self, exc: Exception) -> str:
        return self._config.redact(" ".join(str(exc).split())[:200])

    def _answered(self) -> None:
        since_s, self._since_s = self._since_s, None
        if since_s is not None:
            log.info("the Schema Registry answers again: url=%s waited_s=%.0f", self.url, self._clock_s() - since_s)


def _of_tls(exc: BaseException) -> bool:
    """Whether an exception of the HTTP library is about the server's certificate."""
    return "CERTIFICATE_VERIFY_FAILED" in str(exc)
