"""All commands, options, settings, fields, reasons and files that the documents name exist, and the other way round."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

import click
import msgspec
import pytest
import yaml
from PIL import Image

from stream import events
from stream.demo.tally import Tally
from stream.environment import check_unknown, from_environment
from stream.events import Anomaly, Click, DeadLetter, Recommendation
from stream.ops.cli import eddy
from stream.settings import Rules, Settings, Topics, variable
from tests.docs.blocks import PAGES, ROOT
from tests.kafka import test_mutants as on_kafka
from tests.protocol import test_mutants as without_kafka
from tests.protocol.test_protocol import NEEDED


def commands() -> list[list[str]]:
    """Every `eddy ...` of the documents' code: indented or fenced lines, and spans."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = re.findall(r"^(?: {4})?(eddy (?:[a-z]|--)[^#\n]*)", text, re.MULTILINE)
        lines += re.findall(r"`(eddy [a-z][^`]*)`", text)
        found += [shlex.split(line) for line in lines]
    return found


@pytest.mark.parametrize("line", commands(), ids=" ".join)
def test_every_command_in_the_documents_exists_with_its_options(line: list[str]) -> None:
    """A reader can run every `eddy` command that the documents show."""
    command: click.Command | None = eddy
    words = line[1:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, line
    assert command is not None
    options = {flag for parameter in command.params for flag in parameter.opts} | {"--help", "--version"}
    assert {word for word in words if word.startswith("--")} <= options


def test_every_command_is_in_the_documents() -> None:
    """Every command is documented."""
    shown = {line[1] for line in commands() if len(line) > 1}
    assert set(eddy.list_commands(click.Context(eddy))) <= shown


def test_the_settings_page_lists_every_setting_with_its_default() -> None:
    """The reference is complete and has the defaults of the code."""
    page = (ROOT / "docs" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `--([a-z-]+)` \| `(EDDY_[A-Z_]+)` \|.*$", page, re.MULTILINE))
    defaults = dict(re.findall(r"^\| `--([a-z-]+)` \| `EDDY_[A-Z_]+` \| (.*?) \|", page, re.MULTILINE))
    fields = {f.name: f.default for f in msgspec.structs.fields(Settings) if f.name not in ("topics", "rules")}
    fields |= {f.name: f.default for f in msgspec.structs.fields(Rules)}
    fields |= {f"{f.name}_topic": f.default for f in msgspec.structs.fields(Topics)}
    assert {name.replace("-", "_"): name_of for name, name_of in rows.items()} == {n: variable(n) for n in fields}
    for name, default in fields.items():
        shown = {msgspec.NODEFAULT: "required", "": "empty"}.get(default, f"`{default}`")
        assert defaults[name.replace("_", "-")] == shown, name


@pytest.mark.parametrize("event", [Click, Recommendation, Anomaly, DeadLetter, events.Expected])
def test_the_events_page_names_every_field(event: type[msgspec.Struct]) -> None:
    """Each field of each event is explained."""
    page = (ROOT / "docs" / "events.md").read_text()
    section = page if event is events.Expected else page.split(f"## {event.__name__}")[1].split("\n## ")[0]
    for field in event.__struct_fields__:
        assert re.search(rf"[`\"]{field}[`\"]", section), f"{event.__name__}.{field}"


def test_the_events_page_names_every_reason_of_a_dead_letter() -> None:
    """Every reason in the topic is explained, and the page has no other reasons."""
    files = [file for room in ("wire", "worker", "registry") for file in (ROOT / "stream" / room).rglob("*.py")]
    code = "".join(file.read_text() for file in files)
    raised = set(re.findall(r'BadClick\(\s*"(\w+)"', code))
    page = (ROOT / "docs" / "events.md").read_text().split("| reason | the message |")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == raised


def test_the_delivery_page_names_every_protection_and_its_test() -> None:
    """The table has a row for each protection that is taken out of the code, and for each one of the model."""
    page = (ROOT / "docs" / "delivery.md").read_text()
    table = page.partition("## What each protection is for")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    rows = {line[0].partition(":")[0]: line for line in lines}
    assert set(rows) == {*on_kafka.MUTANTS, *without_kafka.MUTANTS}
    assert NEEDED.keys() <= rows.keys()
    for name, (_, test, _) in on_kafka.MUTANTS.items():
        assert rows[name][-1] == f"`{test.__name__}`"
    for name, (_, check, _) in without_kafka.MUTANTS.items():
        assert rows[name][-1] == f"`{check.__module__.replace('.', '/')}.py`"


def test_the_pictures_of_the_page_are_of_a_screen_and_of_a_phone() -> None:
    """At 1440 and 390 pixels, and each is shown in the page."""
    page = (ROOT / "docs" / "page.md").read_text()
    widths = {path.name: Image.open(path).width for path in (ROOT / "docs").glob("page*.png")}
    assert widths == {"page.png": 1440, "page-dark.png": 1440, "page-user.png": 1440, "page-phone.png": 390}
    for name in widths:
        assert f"]({name})" in page, name


def test_links_between_the_documents_are_valid() -> None:
    """A link is a file of this repository, and its anchor a heading there."""
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            there = (page.parent / target) if target else page
            assert there.is_file(), f"{page.name}: {target}"
            if not anchor:
                continue
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name}: {target}#{anchor}"


def test_the_index_lists_every_document() -> None:
    """A reader finds each page from docs/README.md."""
    listed = set(re.findall(r"^\| \[[^]]*\]\(([^)]*)\)", (ROOT / "docs" / "README.md").read_text(), re.MULTILINE))
    assert {page.name for page in PAGES if page.parent.name == "docs"} - {"README.md", "index.md"} <= listed


def test_readme_is_short() -> None:
    """README has at most 120 lines; the rest is in docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_make_targets_and_benchmarks_in_the_documents_exist() -> None:
    """`make X` and `python -m bench.X` work for every X that is named."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets, page.name
        for module in re.findall(r"python -m bench\.(\w+)", text):
            files = ROOT / "bench" / f"{module}.py", ROOT / "bench" / module / "__main__.py"
            assert any(file.is_file() for file in files), f"{page.name}: {module}"


def test_files_and_names_in_the_documents_exist() -> None:
    """Every named file exists, and so does every function that a page names with its file."""
    for page in PAGES:
        text = page.read_text()
        for path in re.findall(r"(?:`|pytest )((?:stream|export|tests|bench|docs)/[\w/]+\.\w+)", text):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"
        for name, path in re.findall(r"`([\w.]+)` in `([\w/]+\.py)`", text):
            code = (ROOT / path).read_text()
            assert all(re.search(rf"(?:class|def) {part}\b", code) for part in name.split(".")), f"{name} in {path}"


def test_the_architecture_lists_every_room_and_file_of_the_worker() -> None:
    """A newcomer finds each room, and in stream/ each file, on one page."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    for package in ("stream", "export"):
        rooms = page.split(f"## The rooms of {package}/")[1].split("\n## ")[0]
        cells = {row.split(" | ")[0].strip("| "): row for row in rooms.splitlines() if row.startswith("| ")}
        for room in sorted(path.parent for path in (ROOT / package).glob("*/__init__.py")):
            row = next((row for name, row in cells.items() if f"`{room.name}`" in name), "")
            assert row, f"{package}/{room.name}"
            files = {path.stem for path in room.glob("*.py")} - {"__init__"}
            assert package == "export" or files == set(row.split(" | ")[1].split(", ")), room.name


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_compose_sets_only_valid_settings_of_a_worker() -> None:
    """The containers' variables are the worker's own, and each worker has an id of its own."""
    services = compose()["services"]
    known = {variable(f) for f in Settings.__struct_fields__} | {
        variable(f"{t}_topic") for t in Topics.__struct_fields__
    }
    workers = [services["worker"], services["worker-gpu"]]
    for worker in workers:
        assert set(worker["environment"]) <= known
        settings = from_environment(worker["environment"])
        assert settings.broker == "kafka:19092"
        assert worker["restart"] == "unless-stopped"
    assert len({worker["environment"]["EDDY_WORKER_ID"] for worker in workers}) == len(workers)
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert services["worker-gpu"]["environment"]["EDDY_DEVICE"] == "cuda"


def test_compose_starts_kafka_then_the_topics_then_the_worker() -> None:
    """Each service waits for the previous one, and Kafka has listeners for the host and for containers."""
    services = compose()["services"]
    kafka = services["kafka"]
    assert "healthcheck" in kafka
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert services["worker"]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}
    advertised = kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert advertised == "CONTAINERS://kafka:19092,HOST://localhost:9092"
    for listener in ("CONTROLLER", "CONTAINERS", "HOST"):
        assert f"{listener}:PLAINTEXT" in kafka["environment"]["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"]
    assert eddy.commands["topics"].commands.keys() >= {services["topics"]["command"][1]}  # type: ignore[attr-defined]


def test_no_install_brings_both_packages_of_onnx_runtime() -> None:
    """Their files overwrite each other. Only the extras cpu and cuda bring one, and everything installs one of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    of_extra = {"": project["dependencies"], **project["optional-dependencies"]}
    brings = {e: re.findall(r"\bonnxruntime(?:-gpu)?", " ".join(wanted)) for e, wanted in of_extra.items()}
    assert {e: names for e, names in brings.items() if names} == {"cpu": ["onnxruntime"], "cuda": ["onnxruntime-gpu"]}
    assert not any(re.search(r"eddy-stream\[[^]]*(cpu|cuda)", one) for wanted in of_extra.values() for one in wanted)
    assert "RUNTIME ?= cpu\n" in (ROOT / "Makefile").read_text()


def test_every_install_in_the_documents_names_extras_that_exist() -> None:
    """And one of them is the runtime, or else no command of a worker would start."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    for page in PAGES:
        for named in re.findall(r"pip install '\.(?:\[([^]]*)\])?'", page.read_text()):
            assert set(named.split(",")) <= extras, f"{page.name}: {named}"
            assert {"cpu", "cuda"} & set(named.split(",")), f"{page.name}: {named}"
        assert "pip install .`" not in page.read_text(), page.name


def test_the_image_and_the_services_set_only_variables_that_eddy_knows() -> None:
    """A variable that was renamed in the code would have no effect in a container, and nobody would see it."""
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert re.search(r"^ENV EDDY_DATA_DIR=(\S+)", dockerfile, re.MULTILINE)
    found = dict(re.findall(r"^ENV (EDDY_\w+)=(\S+)", dockerfile, re.MULTILINE))
    for service in compose()["services"].values():
        found |= service.get("environment", {})
    assert check_unknown(found) == []


def every_command(group: click.Group = eddy) -> Iterator[click.Command]:
    """Every command of Eddy, those of groups too."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield from every_command(command) if isinstance(command, click.Group) else [command]


def test_every_variable_of_an_option_is_known() -> None:
    """Each command refuses unknown variables, so it must know those of all the others."""
    variables = {parameter.envvar for command in every_command() for parameter in command.params if parameter.envvar}
    assert {"EDDY_BROKER", "EDDY_SINK_URL", "EDDY_FEEDBACK_TOPIC"} <= variables
    assert check_unknown(dict.fromkeys(map(str, variables), "x")) == []


def test_every_variable_that_the_code_and_the_tests_read_is_known() -> None:
    """One that the tests or the benchmarks need must not stop the commands that they run."""
    read = re.compile(r"""(?:environ\.get\(|environ\[|tenv\()["'](EDDY_\w+)|["'](EDDY_\w+)["'] in os\.environ""")
    rooms = [path for room in ("stream", "export", "bench", "tests") for path in (ROOT / room).rglob("*.py")]
    found = {name for path in rooms for names in read.findall(path.read_text()) for name in names if name}
    for script in (ROOT / ".ci" / "run", ROOT / "Makefile", *(ROOT / ".github").rglob("*.y*ml")):
        found |= set(re.findall(r"\b(EDDY_\w+)", script.read_text()))
    assert {"EDDY_REQUIRE_KAFKA", "EDDY_DATA", "EDDY_TEST_KAFKA"} <= found
    assert check_unknown(dict.fromkeys(found, "x")) == []


def test_the_demo_page_names_every_count() -> None:
    """Each figure that `eddy demo --json` prints is explained."""
    page = (ROOT / "docs" / "demo.md").read_text()
    for name in Tally(k=20).counts(1.0, "CPUExecutionProvider"):
        assert f"`{name}`" in page, name
