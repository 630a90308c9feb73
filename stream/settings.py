"""The settings of a worker: one frozen Settings, which the command line reads once (`faust -A`: stream.environment).

The docstrings give the unit and the reason of each field. The engine and the Kafka code get plain values, not this
object.
"""

import re

import msgspec
from msgspec import Struct

from stream.errors import ConfigError
from stream.kafka_config import ADDRESS, HTTP_URL, check_addresses, check_name, check_registry_url
from stream.start_at import start_time_ms

DEVICES = ("auto", "cpu", "cuda")
LISTS = ("every", "last")
CHOICES = {"device": DEVICES, "lists": LISTS, "log_format": ("text", "json")}
"""Setting -> its possible values."""


class Topics(Struct, frozen=True):
    """The topics that a worker reads and writes. `changelog` is compacted and has as many partitions as `clicks`."""

    clicks: str = "clicks"
    recommendations: str = "recommendations"
    anomalies: str = "anomalies"
    dead_letters: str = "clicks-dead-letter"
    changelog: str = "eddy-changelog"
    system_alerts: str = "system-alerts"
    sessions: str = "sessions"
    triggers: str = "triggers"
    behaviour: str = ""

    def names(self) -> list[str]:
        """The names of all topics that there are: that of the triggers is empty without --triggers."""
        return [name for name in msgspec.structs.astuple(self) if name]

    def used(self, triggers: str) -> "Topics":
        """The topics of a worker with this file of --triggers; empty = it writes none."""
        return self if triggers else msgspec.structs.replace(self, triggers="")


FEEDBACK_TOPIC = "feedback"
"""The topic of the verdicts on alerts: `eddy feedback` writes it, `eddy calibrate` reads it, and a worker neither."""


def words(text: str) -> list[str]:
    """Split a comma-separated text: "a, b" -> ["a", "b"]."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _check_ranges(given: Struct, *ranges: tuple[str, float, float]) -> None:
    """Check that each field lies within its (name, low, high). Raises ConfigError, also for NaN."""
    for name, low, high in ranges:
        value = getattr(given, name)
        if not low <= value <= high:
            raise ConfigError(f"setting {name} is {value}; it must be between {low} and {high}")


class Rules(Struct, frozen=True):
    """The rules for the recommended lists. With the defaults a list is the model's ranking.

    exclude_events      event types, such as "purchase,cart": a list has none of the user's last 16 items with such an
                        event
    readmit_events      event types that allow such an item again, such as "remove_from_cart"
    catalogue           .jsonl or .csv file with item_id and the columns that the rules below need; the worker reads it
                        again when it changes
    only                such as "category=shoes,boots; market=de": an item needs one of the values in each named column
    only_available      only items that are in the catalogue and are not marked there as out of stock
    same_category       only items of the click's category: the click's own, else that of its item in the catalogue
    max_per_category    largest number of items of one category in a list; 0 = no limit. Items without a category are
                        not counted
    diversity           MMR: an item whose category is already in the list loses diversity / (1 - diversity) nats;
                        0 = off
    popular_if_unknown  a user whose last 16 items are all unknown to the model gets the list of a new user: the popular
                        items
    explore             share of the slots that are filled at random from the next best items; the decision has the
                        propensities
    explore_seed        seed of the exploration: the same click with the same seed gives the same list
    """

    exclude_events: str = ""
    readmit_events: str = ""
    catalogue: str = ""
    only: str = ""
    only_available: bool = False
    same_category: bool = False
    max_per_category: int = 0
    diversity: float = 0.0
    popular_if_unknown: bool = False
    explore: float = 0.0
    explore_seed: int = 0

    def __post_init__(self) -> None:
        """Check the values. Raises ConfigError with one line that names the setting."""
        _check_ranges(
            self,
            ("max_per_category", 0, 1000),
            ("diversity", 0.0, 0.95),
            ("explore", 0.0, 0.5),  # above 0.5 a random item would be more frequent than the model's choice
            ("explore_seed", 0, 2**63 - 1),
        )
        both = set(words(self.exclude_events)) & set(words(self.readmit_events))
        if both:
            raise ConfigError(f"settings exclude_events and readmit_events both name {', '.join(sorted(both))}")
        if self.readmit_events and not self.exclude_events:
            raise ConfigError("setting readmit_events needs exclude_events, because it allows their items again")
        asking = ("only", "only_available", "same_category", "max_per_category", "diversity")
        asks = [name for name in asking if getattr(self, name)]
        if asks and not self.catalogue:
            raise ConfigError(f"setting {asks[0]} needs a catalogue of the items; give --catalogue")
        self.wanted()

    def wanted(self) -> dict[str, frozenset[str]]:
        """Parse `only`: column -> the allowed values. Raises ConfigError."""
        found: dict[str, frozenset[str]] = {}
        for part in filter(str.strip, self.only.split(";")):
            column, _, values = part.partition("=")
            if not column.strip() or not words(values) or column.strip() in found:
                raise ConfigError(f"setting only has {part.strip()!r}; it must be COLUMN=VALUE[,VALUE...][; ...]")
            found[column.strip()] = frozenset(words(values))
        return found


FORGET_AFTER_DAYS = 90.0
"""A quarter: few people come back after a longer pause, and older clicks predict little of the next one."""

ALPHA = 0.0001
"""One in 10,000 sessions: a shop with 100,000 sessions a day gets about ten false alerts a day."""

ALPHAS = (1e-9, 0.5)

TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
FALSE_ALARMS = re.compile(r"\s*([0-9]{1,12})\s*/\s*([0-9]{1,12})(\s+sessions)?\s*", re.ASCII)
"""One number of sessions of another: "1/10000", "3 / 50000 sessions"."""


class Settings(Struct, frozen=True):
    """All settings of one worker.

    model              directory written by `eddy train`, .../NAME/VERSION
    mapping            file that defines how clicks are read (stream.mapping); empty: the model's own, if it has one
    broker             Kafka brokers, host:port[,host:port...]
    kafka_config       file of Kafka properties for TLS and SASL, see stream.kafka_config; empty: EDDY_KAFKA_* only
    schema_registry    http(s)://host:port/path of a Confluent-compatible Schema Registry, for a mapping with the format
                       avro or protobuf. Its password and certificates are in kafka_config
    pseudonymise       file with a key: user ids are replaced by keyed hashes (wire.pseudonym). Empty: they are kept
    group              consumer group: its workers share the partitions. It is the prefix of their transactional ids
    worker_id          unique in the group. A restarted worker must have the same one, so that Kafka fences its
                       previous process. Empty: the worker takes a free number, with a lock file in `data_dir`
    data_dir           directory of the lock files of worker ids, and of the states with `state_on_disk`
    state_on_disk      the states are in a file in `data_dir`, mapped to memory: for states that are larger than memory.
                       Not the default, because each changed state is written to the disk within seconds
    device             auto: the GPU if there is one, else the CPU; cuda: refuse to start without a GPU; cpu: the CPU
    k                  recommendations per click
    lists              every: a list for each click; last: only for a user's last click in a transaction, whose id the
                       decisions on the user's other clicks have. A list is most of a click's work
    exclude_recent     a list has none of the items of the user's last N clicks; 0 = exclude nothing
    alpha              alert when the p-value is at most this: the nominal share of sessions with a false alert. 0: by
                       false_alarms
    false_alarms       the same as a number of sessions of another, "1/10000". Empty, and no alpha: ALPHA
    max_future_s       s; a click that is further ahead of the clock is bad: it has a wrong unit. The clock is this
                       worker's or the Kafka timestamp of the click's message, the later one
    max_message_bytes  a longer message is bad; a normal click has a few hundred bytes
    max_cycle_clicks   largest number of clicks in one transaction. A larger value raises throughput and latency (a
                       commit of 5,000 clicks takes about 50 ms)
    session_timeout_s  s; a worker without heartbeats for so long loses its partitions. It also limits the transaction
                       timeout
    stay_in_group      on SIGTERM keep the place in the group. For a restart under the same worker_id within
                       session_timeout_s: then nothing moves
    drain              decide the clicks that are there now in the partitions that the changelog has, and end with 0:
                       before `eddy topics repair`, after partitions were added to the clicks
    start_at           where a group without committed offsets begins: undecided, earliest, latest, or a time
    hang_s             s; a producer is replaced if a call takes longer while Kafka answers (librdkafka #5456)
    http_host, http_port  address of /metrics, /livez and /readyz; port 0 = none. It has no passwords: keep it local
    http_answers       answer requests about users on this port. Not the default: the figures of /metrics name no user
    http_advertise     host:port at which the group's other workers reach this port. Empty: http_host and http_port, or
                       this machine's name if http_host is all addresses; none if it is local
    http_token_file    file with the token that a request to forget a user needs. Empty: all such requests are refused
    log_format         text; json: one object a line
    otlp_endpoint      http(s)://host:port of a collector that takes OTLP over HTTP. Empty: no traces
    triggers           file of the shop's rules for marketing (stream.triggers). Empty: no triggers are written
    """

    model: str
    mapping: str = ""
    broker: str = "localhost:9092"
    kafka_config: str = ""
    schema_registry: str = ""
    pseudonymise: str = ""
    group: str = "eddy"
    worker_id: str = ""
    data_dir: str = ".eddy"
    topics: Topics = Topics()
    rules: Rules = Rules()
    device: str = "auto"
    k: int = 20
    lists: str = "every"
    exclude_recent: int = 1
    alpha: float = 0.0
    false_alarms: str = ""
    max_future_s: float = 3600.0
    max_message_bytes: int = 65_536
    max_cycle_clicks: int = 5_000
    session_timeout_s: float = 10.0
    forget_after_days: float = FORGET_AFTER_DAYS
    state_on_disk: bool = False
    stay_in_group: bool = False
    drain: bool = False
    start_at: str = "undecided"
    hang_s: float = 20.0
    http_port: int = 0
    http_host: str = "127.0.0.1"
    http_answers: bool = False
    http_advertise: str = ""
    http_token_file: str = ""
    log_format: str = "text"
    otlp_endpoint: str = ""
    triggers: str = ""

    def __post_init__(self) -> None:
        """Check the values. Raises ConfigError with one line that names the setting."""
        _check_ranges(
            self,
            ("k", 1, 1000),
            ("exclude_recent", 0, RECENT_ITEMS),
            ("max_message_bytes", 256, 1_000_000),
            ("max_cycle_clicks", 1, 100_000),
            ("session_timeout_s", 6.0, 300.0),
            ("hang_s", 1.0, 600.0),
            ("forget_after_days", 0.0, 36_500.0),
            ("max_future_s", 0.0, 1e9),
            ("http_port", 0, 65_535),
        )
        if self.alpha:
            _check_ranges(self, ("alpha", *ALPHAS))
        self.nominal_rate()
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise ConfigError(f"setting {name} is {getattr(self, name)!r}; it must be one of {', '.join(values)}")
        start_time_ms(self.start_at)
        for name in ("model", "broker", "group", "http_host"):
            if not getattr(self, name).strip():
                raise ConfigError(f"setting {name} is empty; give --{name.replace('_', '-')}")
        for name in ("group", "worker_id"):
            check_name(name, getattr(self, name))
        check_addresses(self.broker)
        check_registry_url(self.schema_registry)
        if self.otlp_endpoint and not HTTP_URL.fullmatch(self.otlp_endpoint.strip()):
            raise ConfigError("setting otlp_endpoint must be http(s)://host[:port][/path]; a password is no part of it")
        if self.http_answers and not self.http_port:
            raise ConfigError("setting http_answers needs the HTTP port; give --http-port")
        if self.http_advertise and not ADDRESS.fullmatch(self.http_advertise):
            raise ConfigError(f"setting http_advertise is {self.http_advertise!r}; it must be host:port")
        if self.triggers and not self.topics.triggers:
            raise ConfigError("setting triggers needs a topic; give --triggers-topic")
        names = self.topics.names()
        wrong = [name for name in names if not TOPIC.fullmatch(name)]
        if wrong:
            raise ConfigError(
                f"topic {wrong[0]!r}: no topic can have this name; Kafka allows 1 to 249 ASCII letters, digits, dots, "
                "underscores and dashes"
            )
        needed = len(Topics.__struct_fields__) - (not self.topics.triggers) - (not self.topics.behaviour)
        if len(set(names)) < needed:
            twice = [name for number, name in enumerate(names) if name in names[:number]]
            which = f"two of them are {twice[0]!r}" if twice else "one has no name"
            raise ConfigError(f"the topics are {', '.join(names)}; they need different names, but {which}")

    def nominal_rate(self) -> float:
        """The nominal share of sessions with a false alert, by alpha or false_alarms. Raises ConfigError."""
        if not self.false_alarms.strip():
            return self.alpha or ALPHA
        if self.alpha:
            raise ConfigError(
                f"settings alpha ({self.alpha:g}) and false_alarms ({self.false_alarms}) are both given, and set the "
                "same; remove one of them"
            )
        parts = FALSE_ALARMS.fullmatch(self.false_alarms)
        rate = int(parts[1]) / int(parts[2]) if parts and int(parts[2]) else 0.0
        if not ALPHAS[0] <= rate <= ALPHAS[1]:
            raise ConfigError(
                f"setting false_alarms is {self.false_alarms!r}; it must be a number of sessions of another, such as "
                f"1/10000, and the share between {ALPHAS[0]:g} and {ALPHAS[1]:g}"
            )
        return rate


RECENT_ITEMS = 16
"""Number of a user's last items in a state row. More would make the row larger; fewer would exclude too few items."""


def variable(option: str) -> str:
    """The environment variable of a setting: `broker` -> `EDDY_BROKER`, `clicks_topic` -> `EDDY_CLICKS_TOPIC`."""
    return f"EDDY_{option.upper()}"
