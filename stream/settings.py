"""The worker's settings: one frozen Settings, read once by the command line (or from EDDY_* by `faust -A`).

Each field says its unit, its default and why. Inner code gets plain values, never this object.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from stream.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")


class Topics(Struct, frozen=True):
    """The topics a worker reads and writes. `changelog` is compacted and has as many partitions as `clicks`."""

    clicks: str = "clicks"
    recommendations: str = "recommendations"
    anomalies: str = "anomalies"
    dead_letters: str = "clicks-dead-letter"
    changelog: str = "eddy-changelog"


class Settings(Struct, frozen=True):
    """What one worker runs with.

    model              directory written by `eddy train`, .../NAME/VERSION
    broker             host:port[,host:port...] of Kafka
    group              consumer group; its workers share the partitions, and its name opens their transactional ids
    worker_id          stable and unique in the group: a restarted worker must reuse it to fence its former self.
                       Empty: a free number is claimed under `data_dir`
    data_dir           where the claimed worker numbers are locked
    device             auto: a GPU if there is one; cuda: refuse to start without; cpu
    k                  recommendations per click
    exclude_recent     leave out the items of the user's last N clicks ("just seen"); 0 leaves none out
    alpha              alert when the p-value is at or below; also the promised false-alarm rate per click
    max_future_s       a click further ahead of the worker's clock than this is bad: a wrong unit or a wrong clock
    max_message_bytes  a longer message is bad; a click has a few hundred bytes
    max_cycle_clicks   clicks in one transaction: more is faster, but later (5,000 take about 50 ms to commit)
    session_timeout_s  a silent worker loses its partitions after this; also bounds the transaction timeout
    hang_s             a client call that has not returned by then ends the process (librdkafka #5456)
    """

    model: str
    broker: str = "localhost:9092"
    group: str = "eddy"
    worker_id: str = ""
    data_dir: str = ".eddy"
    topics: Topics = Topics()
    device: str = "auto"
    k: int = 20
    exclude_recent: int = 1
    alpha: float = 0.001
    max_future_s: float = 3600.0
    max_message_bytes: int = 65_536
    max_cycle_clicks: int = 5_000
    session_timeout_s: float = 10.0
    hang_s: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises ConfigError with one line that names the setting."""
        for name, low, high in (
            ("k", 1, 1000),
            ("exclude_recent", 0, RECENT_ITEMS),
            ("max_message_bytes", 256, 1_000_000),
            ("max_cycle_clicks", 1, 100_000),
            ("session_timeout_s", 6.0, 300.0),
            ("hang_s", 1.0, 600.0),
            ("max_future_s", 0.0, 1e9),
            ("alpha", 1e-9, 0.5),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"setting {name} is {value}; it must be between {low} and {high}")
        if self.device not in DEVICES:
            raise ConfigError(f"setting device is {self.device!r}; it must be one of {', '.join(DEVICES)}")
        for name in ("model", "broker", "group"):
            if not getattr(self, name).strip():
                raise ConfigError(f"setting {name} is empty; give --{name}")
        for address in self.broker.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65_536:
                raise ConfigError(f"setting broker holds {address.strip()!r}; it must be host:port[,host:port...]")
        names = list(msgspec.structs.astuple(self.topics))
        if len(set(names)) < len(names) or not all(names):
            raise ConfigError(f"settings topics are {', '.join(names)}; five different names are needed")


RECENT_ITEMS = 16
"""Items a state row remembers. More would cost row bytes; fewer would show again what was just seen."""


def variable(option: str) -> str:
    """The environment variable of a setting: `EDDY_BROKER` of `broker`, `EDDY_CLICKS_TOPIC` of `clicks_topic`."""
    return f"EDDY_{option.upper()}"


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Settings as `faust -A stream.kafka.app worker` reads them: the variables that `eddy worker` knows too.

    environ  such as os.environ; a variable that is not there leaves the default
    Raises ConfigError with one line that names the variable.
    """
    given: dict[str, object] = {}
    for field in msgspec.structs.fields(Settings):
        text = environ.get(variable(field.name))
        if field.name == "topics" or text is None:
            continue
        try:
            given[field.name] = msgspec.convert(text, field.type, strict=False)
        except msgspec.ValidationError as exc:
            raise ConfigError(f"{variable(field.name)} is {text!r}: {exc}") from exc
    if not given.get("model"):
        raise ConfigError("EDDY_MODEL is not set; give it a directory written by `eddy train`")
    names = {name: environ.get(variable(f"{name}_topic")) for name in Topics.__struct_fields__}
    given["topics"] = Topics(**{name: topic for name, topic in names.items() if topic is not None})
    return Settings(**given)  # type: ignore[arg-type]  # each value was converted to its field's type above
