"""The worker's settings: one frozen Settings, read once by the command line (or from EDDY_* by `faust -A`).

Each field says its unit, its default and why. Inner code gets plain values, never this object.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

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


def words(text: str) -> list[str]:
    """ "a, b" -> ["a", "b"]."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _check_ranges(given: Struct, *ranges: tuple[str, float, float]) -> None:
    """Raises ConfigError for a field that lies outside its (name, low, high), or is NaN."""
    for name, low, high in ranges:
        value = getattr(given, name)
        if not low <= value <= high:
            raise ConfigError(f"setting {name} is {value}; it must be between {low} and {high}")


class Rules(Struct, frozen=True):
    """Which items a list may hold, and how it is made up. With the defaults it is the model's ranking.

    exclude_events      event types, "purchase,cart": leave out the user's last 16 items that came by one of them
    readmit_events      event types that allow such an item again, "remove_from_cart"
    catalogue           .jsonl or .csv with item_id and what the rules below ask for; read again when it changes
    only                "category=shoes,boots; market=de": only items that have one of the values in every column named
    only_available      only items in the catalogue that are not out of stock by its in_stock or available
    same_category       only items of the click's category: the click's own word, else the catalogue's for its item
    max_per_category    items of one category in a list; 0 = any number. An item without a category is not counted
    diversity           MMR: an item whose category is in the list counts diversity / (1 - diversity) nats less; 0 = off
    popular_if_unknown  a user none of whose last 16 items the model knows gets a new user's list: the popular items
    explore             share of the slots filled at random from the next best items, with the propensity told
    explore_seed        another seed explores elsewhere; the same click under the same seed the same
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
        """Refuse what cannot work. Raises ConfigError with one line that names the setting."""
        _check_ranges(
            self,
            ("max_per_category", 0, 1000),
            ("diversity", 0.0, 0.95),
            ("explore", 0.0, 0.5),  # above it the model's own choice would be the rarer one
            ("explore_seed", 0, 2**63 - 1),
        )
        both = set(words(self.exclude_events)) & set(words(self.readmit_events))
        if both:
            raise ConfigError(f"settings exclude_events and readmit_events both name {', '.join(sorted(both))}")
        if self.readmit_events and not self.exclude_events:
            raise ConfigError("setting readmit_events needs exclude_events: nothing else is readmitted")
        asking = ("only", "only_available", "same_category", "max_per_category", "diversity")
        asks = [name for name in asking if getattr(self, name)]
        if asks and not self.catalogue:
            raise ConfigError(f"setting {asks[0]} needs the items' attributes; give --catalogue")
        self.wanted()

    def wanted(self) -> dict[str, frozenset[str]]:
        """Column -> the values allowed, as `only` says. Raises ConfigError."""
        found: dict[str, frozenset[str]] = {}
        for part in filter(str.strip, self.only.split(";")):
            column, _, values = part.partition("=")
            if not column.strip() or not words(values) or column.strip() in found:
                raise ConfigError(f"setting only holds {part.strip()!r}; it must be COLUMN=VALUE[,VALUE...][; ...]")
            found[column.strip()] = frozenset(words(values))
        return found


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
    rules: Rules = Rules()
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
        _check_ranges(
            self,
            ("k", 1, 1000),
            ("exclude_recent", 0, RECENT_ITEMS),
            ("max_message_bytes", 256, 1_000_000),
            ("max_cycle_clicks", 1, 100_000),
            ("session_timeout_s", 6.0, 300.0),
            ("hang_s", 1.0, 600.0),
            ("max_future_s", 0.0, 1e9),
            ("alpha", 1e-9, 0.5),
        )
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


def parse(kind: type, text: str, source: str) -> Any:
    """The value of a setting that was written as text: the one parser for options and for variables.

    kind    str, int, float or bool. Only str keeps the spaces around it; a bool is written as TRUE or FALSE below says
    source  "--k" or "EDDY_K", for the error
    Raises ConfigError with one line that names the source.
    """
    try:
        return _flag(text) if kind is bool else kind(text)
    except ValueError:
        raise ConfigError(f"{source} is {text!r}; it must be {KINDS[kind]}") from None


TRUE, FALSE = ("1", "true", "yes", "on", "t", "y"), ("0", "false", "no", "off", "f", "n")
KINDS = {
    int: "a whole number",
    float: "a number",
    bool: f"one of {', '.join(TRUE)} or one of {', '.join(FALSE)}",
}


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word not in TRUE + FALSE:
        raise ValueError
    return word in TRUE


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Settings as `faust -A stream.worker.app worker` reads them: the variables that `eddy worker` knows too.

    environ  such as os.environ; a variable that is not there, or is empty, leaves the default
    Raises ConfigError with one line that names the variable.
    """
    given = _given(Settings, environ)
    if "model" not in given:
        raise ConfigError("EDDY_MODEL is not set; give it a directory written by `eddy train`")
    names = {name: environ.get(variable(f"{name}_topic")) for name in Topics.__struct_fields__}
    given["topics"] = Topics(**{name: topic for name, topic in names.items() if topic})
    given["rules"] = Rules(**_given(Rules, environ))
    return Settings(**given)


def _given(kind: type[Struct], environ: Mapping[str, str]) -> dict[str, Any]:
    """The plain fields of a struct that the environment has, each converted to its type. Raises ConfigError."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        name = variable(field.name)
        text = environ.get(name)
        if field.name not in ("topics", "rules") and text:
            found[field.name] = parse(field.type, text, name)
    return found


OTHER_VARIABLES = ("EDDY_TRACEBACK", "EDDY_DATA", "EDDY_TEST_KAFKA", "EDDY_REQUIRE_KAFKA")
OTHER_PREFIXES = (
    "EDDY_FAUST_",
    "EDDY_CHAOS_",  # of the tests
    "EDDY_SERVICE_",  # Kubernetes sets these two for a Service that is called eddy
    "EDDY_PORT",
)
"""Variables that are no setting of a worker and yet known."""


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """One line for each variable named EDDY_... that nothing reads: a typing mistake would else have no effect, unseen.

    It is a warning and no refusal, because the variable may be meant for another program of the deployment.
    """
    fields = [*Settings.__struct_fields__, *Rules.__struct_fields__, *(f"{n}_topic" for n in Topics.__struct_fields__)]
    known = {variable(name) for name in fields if name not in ("topics", "rules")}
    lines = []
    for name in sorted(environ):
        if not name.startswith("EDDY_") or name in known or name in OTHER_VARIABLES or name.startswith(OTHER_PREFIXES):
            continue
        word = name.removeprefix("EDDY_")
        nearest = get_close_matches(word, [other.removeprefix("EDDY_") for other in known], 1)
        advice = f"did you mean EDDY_{nearest[0]}?" if nearest else "docs/settings.md lists them"
        lines.append(f"{name} is not a variable of Eddy and has no effect; {advice}")
    return lines
