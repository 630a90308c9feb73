"""Settings from a file and from environment variables. A variable EDDY_... with a mistyped name is refused.

    the file  <  a variable EDDY_...  <  an option of the command line

The command line has its own parser (ops.options), which reads the same file. `faust -A` has the file and the variables.
"""

import re
import tomllib
from collections.abc import Mapping
from datetime import date, time
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from stream.errors import ConfigError
from stream.kafka_config import VARIABLES
from stream.settings import Rules, Settings, Topics, variable

MOST_BYTES = 100_000
"""A larger file is no settings file."""

FILE_VARIABLE = "EDDY_SETTINGS"
"""The variable with the path of the settings file."""


def names() -> list[str]:
    """The names of all settings, as options have them without dashes: `broker`, `clicks_topic`, `same_category`..."""
    fields = [*Settings.__struct_fields__, *Rules.__struct_fields__, *(f"{n}_topic" for n in Topics.__struct_fields__)]
    return [name for name in fields if name not in ("topics", "rules")]


def read_file(path: Path) -> dict[str, str]:
    """Read a settings file: name -> value as text, which `parse` understands.

    It is TOML without tables: `broker = "k1:9092"`, `k = 30`, `drain = true`, `exclude_events = ["purchase", "cart"]`.
    Raises ConfigError, with the nearest name for an unknown one.
    """
    try:
        if path.exists() and not path.is_file():  # reading a FIFO would wait for ever
            raise ConfigError(f"settings file {path} is no file")
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"settings file {path} has more than {MOST_BYTES:,} bytes")
        text = path.read_bytes().decode("utf-8-sig")
        values = tomllib.loads(text)
    except OSError as exc:
        raise ConfigError(f"settings file {path} cannot be read ({exc.strerror})") from exc
    except (ValueError, RecursionError) as exc:  # not TOML, not UTF-8, a huge number, or nested too deeply
        why = " ".join(str(exc).split())[:200]
        raise ConfigError(f"settings file {path} is not TOML ({why}); write lines such as broker = 'k1:9092'") from exc
    return {name: _text(path, name, value) for name, value in values.items()}


def _text(path: Path, name: str, value: object) -> str:
    """The value of a setting as text. Raises ConfigError."""
    if name not in names():
        advice = "the file has no tables" if isinstance(value, dict) else nearest(name, names())
        raise ConfigError(f"settings file {path} has {name!r}, which is no setting; {advice}")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, date | time):  # also a datetime, which is a date
        return value.isoformat()
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    raise ConfigError(
        f"settings file {path}: {name} is {value!r}; it must be text, a number, true, false or a list of text"
    )


def nearest(name: str, known: list[str]) -> str:
    """Advice for an unknown name."""
    found = get_close_matches(name, known, 1)
    return f"did you mean {found[0]}?" if found else "docs/settings.md lists them"


def parse(kind: type, text: str, source: str) -> Any:
    """Parse the text of a setting. Options and variables both use this parser.

    kind    str, int, float or bool. Only a str keeps the spaces around it. A bool is one of the words in TRUE or FALSE
    source  "--k" or "EDDY_K", for the error message
    Raises ConfigError with one line that names the source.
    """
    try:
        return _flag(text) if kind is bool else kind(text)
    except ValueError:
        raise ConfigError(f"{source} is {text!r}; it must be {KINDS[kind]}{_of_service(source, text)}") from None


def _of_service(source: str, text: str) -> str:
    """What to do if Kubernetes makes a variable of this name and value: EDDY_HTTP_PORT is a setting, too."""
    made = KUBERNETES.fullmatch(f"{source}={text}")
    if made is None:
        return ""
    service = f"eddy_{made['service'] or ''}".strip("_").replace("_", "-").lower()
    return (
        f". Kubernetes makes this variable for a Service named {service}: "
        "set enableServiceLinks: false in the pod, or rename the Service"
    )


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
    """Read Settings from environment variables and the file that one of them names, for `faust -A stream.worker.app`.

    environ  such as os.environ; a setting whose variable is missing or empty has the file's value or its default
    Raises ConfigError with one line that names the variable, or the file.
    """
    file = environ.get(FILE_VARIABLE)
    texts = {name: (text, f"{name} in {file}") for name, text in (read_file(Path(file)) if file else {}).items()}
    texts |= {name: (environ[variable(name)], variable(name)) for name in names() if environ.get(variable(name))}
    given = _given(Settings, texts)
    if "model" not in given:
        raise ConfigError("EDDY_MODEL is not set; set it to a directory written by `eddy train`")
    topics = {name: texts.get(f"{name}_topic", ("", ""))[0] for name in Topics.__struct_fields__}
    given["topics"] = Topics(**{name: topic for name, topic in topics.items() if topic})
    given["rules"] = Rules(**_given(Rules, texts))
    return Settings(**given)


def _given(kind: type[Struct], texts: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The values of a struct's fields. texts: name -> text and where it comes from. Raises ConfigError."""
    fields = (field for field in msgspec.structs.fields(kind) if field.name in texts)
    return {field.name: parse(field.type, *texts[field.name]) for field in fields}


OTHER_VARIABLES = (
    FILE_VARIABLE,
    "EDDY_FEEDBACK_TOPIC",
    "EDDY_SINK_URL",
    "EDDY_SINK_URL_FILE",
    "EDDY_TRACEBACK",
    "EDDY_DATA",  # from here on: of the benchmarks and the tests
    "EDDY_TEST_KAFKA",
    "EDDY_REQUIRE_KAFKA",
    "EDDY_REQUIRE_BROWSER",
    "EDDY_REQUIRE_SERVERS",
)
"""Known variables that are not settings of a worker. A test compares them with those that the commands read."""

MISTYPED = 0.75
"""A name is a mistyped one if it is so similar to one of Eddy's (difflib): BROKERS and BROKER_URL are, HOST is not."""

FAUST_PREFIX = "EDDY_FAUST_"
"""Faust reads its own settings from variables with this prefix."""

KUBERNETES = re.compile(
    r"EDDY_(?P<service>\w+_)?"
    r"(SERVICE_HOST=[\da-f.:]+|SERVICE_PORT(_\w+)?=\d+|PORT=(tcp|udp|sctp)://\S+"
    r"|PORT_\d+_(TCP|UDP|SCTP)(=(tcp|udp|sctp)://\S+|_PROTO=(tcp|udp|sctp)|_PORT=\d+|_ADDR=[\da-f.:]+))"
)
"""A variable and its value, if Kubernetes makes it: for a Service eddy or eddy-..., in every pod of its namespace."""


def check_unknown(environ: Mapping[str, str]) -> list[str]:
    """Look for variables EDDY_... that nothing reads.

    returns  a warning for each that is like no name of Eddy's: another program may read it
    Raises ConfigError with one line if there are mistyped ones, which are like a name of Eddy's (MISTYPED). Variables
    that Kubernetes makes are ignored. Their form is checked with the value, so that no mistyped one passes.
    """
    known = {variable(name) for name in names()} | VARIABLES.keys() | set(OTHER_VARIABLES)
    words, mistyped, others = sorted(name.removeprefix("EDDY_") for name in known), [], []
    for name in sorted(environ):
        if not name.startswith("EDDY_") or name in known or name.startswith(FAUST_PREFIX):
            continue
        if KUBERNETES.fullmatch(f"{name}={environ[name]}"):
            continue
        word = name.removeprefix("EDDY_")
        advice = nearest(word, words).replace("did you mean ", "did you mean EDDY_")
        if get_close_matches(word, words, 1, MISTYPED):
            mistyped.append(f"{name} is not a variable of Eddy; {advice}")
        else:
            others.append(f"{name} is not a variable of Eddy and has no effect; {advice}")
    if mistyped:
        raise ConfigError(" ".join(mistyped))
    return others
