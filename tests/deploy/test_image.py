"""The Dockerfile and docker-compose.yml: their lint, their schema, and that what they name exists. No test has
Docker.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from stream.environment import check_unknown, from_environment
from tests.deploy.words import parsed
from tests.docs.blocks import ROOT
from tests.kafka.apicurio import API, VERSION

BIN = Path(sys.executable).parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
WORKERS = ("worker", "worker-1", "worker-gpu")


def services() -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return loaded


def stages() -> dict[str, tuple[str, list[str]]]:
    """Stage of the Dockerfile -> what it begins from, and its instructions."""
    text = re.sub(r" \\\n\s*", " ", DOCKERFILE.read_text())
    found: dict[str, tuple[str, list[str]]] = {}
    for line in text.splitlines():
        if begins := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[begins[2]] = (begins[1], [])
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]][1].append(line)
    return found


def test_hadolint_has_no_complaint() -> None:
    """The lint of Dockerfiles, with its default rules."""
    done = subprocess.run([BIN / "hadolint", str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_compose_file_has_the_form_of_the_specification() -> None:
    """A mistyped key is refused."""
    jsonschema.validate(
        yaml.safe_load((ROOT / "docker-compose.yml").read_text()), get_builtin_schema("vendor.compose-spec")
    )


def test_an_image_is_built_from_files_and_stages_that_exist() -> None:
    """What is copied from the checkout is there and not ignored; what is copied from a stage is of an earlier one."""
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    before: list[str] = ["${PYTHON}"]
    for name, (parent, lines) in stages().items():
        assert parent in before, name
        for line in lines:
            assert set(re.findall(r"from=([\w-]+)", line)) <= set(before), line
            if line.startswith("COPY ") and "--from" not in line:
                for source in line.split()[1:-1]:
                    assert (ROOT / source).exists(), source
                    assert any(
                        source == kept[1:] or source.startswith(f"{kept[1:]}/") for kept in ignore if kept[0] == "!"
                    )
        before.append(name)


def test_code_is_copied_only_after_the_packages() -> None:
    """So a changed line of code makes no layer with packages new."""
    for name, (_, lines) in stages().items():
        copied = [line for line in lines if line.startswith("COPY ")]
        if name.startswith("packages-"):
            assert all(line.startswith("COPY deploy/lock/") for line in copied), name
    wheel = stages()["wheel"][1]
    first = next(i for i, line in enumerate(wheel) if line.startswith("COPY stream"))
    assert any("--require-hashes" in line for line in wheel[:first])


@pytest.mark.parametrize("target", ["cpu", "cuda", "trainer"])
def test_an_image_has_the_packages_of_its_name_and_no_root(target: str) -> None:
    """And the default is the worker on a CPU, which is the last stage."""
    parent, lines = stages()[target]
    assert parent == "base"
    assert f"COPY --from=packages-{target} /opt/eddy /opt/eddy" in lines
    assert f"COPY deploy/lock/{target}.txt /lock.txt" in stages()[f"packages-{target}"][1]
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
    assert list(stages())[-1] == "cpu"


def test_the_services_use_targets_that_exist() -> None:
    """A worker's image has its runtime, and the services of one image are built in one way."""
    built = {name: service for name, service in services().items() if "build" in service}
    assert {name: service["build"]["target"] for name, service in built.items()} == {
        "topics": "cpu",
        "worker": "cpu",
        "worker-1": "cpu",
        "worker-gpu": "cuda",
        "trainer": "trainer",
    }
    of_image: dict[str, set[str]] = {}
    for service in built.values():
        of_image.setdefault(service["image"], set()).add(service["build"]["target"])
    assert all(len(targets) == 1 for targets in of_image.values())
    assert set(of_image) == {"eddy", "eddy-gpu", "eddy-trainer"}


def test_eddy_accepts_the_commands_of_the_services() -> None:
    """With the variables of the service."""
    for name in ("topics", *WORKERS):
        service = services()[name]
        context = parsed(service["command"], service["environment"])
        assert context.params["broker"] == "kafka:19092", name


def test_the_workers_have_ids_and_directories_of_their_own() -> None:
    """Two workers with one id would take each other's place."""
    found = [services()[name] for name in WORKERS]
    settings = [from_environment({**worker["environment"], "EDDY_DATA_DIR": "x"}) for worker in found]
    assert len({one.worker_id for one in settings}) == len(found)
    volumes = {next(v for v in worker["volumes"] if v.endswith(":/var/lib/eddy")) for worker in found}
    assert len(volumes) == len(found)
    for worker in found:
        assert check_unknown(worker["environment"]) == []


def test_the_containers_of_eddy_are_confined() -> None:
    """Read-only but for the data and /tmp, no capability, no way to become root."""
    for name in ("topics", "trainer", *WORKERS):
        service = services()[name]
        assert service["read_only"], name
        assert service["tmpfs"] == ["/tmp"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_the_registry_is_the_one_of_the_tests_and_the_workers_know_its_address() -> None:
    """An exact version that keeps its schemas on Kafka: else no message could be read after its restart."""
    registry = services()["registry"]
    assert registry["image"] == f"apicurio/apicurio-registry-kafkasql:{VERSION}"
    assert registry["profiles"] == ["registry"]
    assert registry["environment"] == {"KAFKA_BOOTSTRAP_SERVERS": "kafka:19092"}
    assert registry["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    [(port, inside)] = [one.removeprefix("127.0.0.1:").split(":") for one in registry["ports"]]
    for name in WORKERS:
        settings = from_environment({**services()[name]["environment"], "EDDY_DATA_DIR": "x"})
        assert settings.schema_registry == f"http://registry:{inside}{API}", name
    assert f"http://localhost:{port}{API}" in (ROOT / "docs" / "docker.md").read_text()
    context = parsed(["sink", "avro", "--create"], services()["worker"]["environment"])
    assert context.params["schema_registry"] == settings.schema_registry


def test_only_kafka_topics_and_one_worker_start_without_a_profile() -> None:
    """And the host opens no port to a network."""
    assert {name for name, service in services().items() if not service.get("profiles")} == {
        "kafka",
        "topics",
        "worker",
    }
    for name, service in services().items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
