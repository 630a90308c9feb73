"""The workflow for releases: its lint, its schema, and that its commands and targets exist. No test runs it."""

import re
import shlex
import shutil
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from tests.deploy.words import parsed
from tests.docs.blocks import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"


def jobs() -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    return loaded


def test_the_workflow_has_the_form_of_the_schema() -> None:
    """A mistyped key is refused."""
    text = re.sub(r"^on:", '"on":', WORKFLOW.read_text(), flags=re.MULTILINE)  # YAML 1.1 reads a bare `on` as true
    jsonschema.Draft7Validator(get_builtin_schema("vendor.github-workflows")).validate(yaml.safe_load(text))


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="THE WORKFLOW WAS NOT LINTED: no actionlint")
def test_actionlint_has_no_complaint() -> None:
    """It checks expressions, needs and the inputs of known actions."""
    done = subprocess.run(["actionlint", str(WORKFLOW)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_eddy_accepts_the_commands_that_try_the_wheel() -> None:
    """They are what tells a broken wheel from a good one."""
    ran = [step["run"] for step in jobs()["try"]["steps"] if "run" in step]
    commands = [shlex.split(line.removeprefix("fresh/bin/eddy ")) for line in ran if line.startswith("fresh/bin/eddy ")]
    assert ["--version"] in commands
    [demo] = [words for words in commands if words != ["--version"]]
    assert parsed(demo, {}).params["as_json"]


def test_every_image_is_built_and_the_files_are_published_only_after_both_trials() -> None:
    """The targets are those of the Dockerfile; only one job may ask for an identity, and only for a tag."""
    stages = re.findall(r"^FROM base AS (\S+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    assert set(jobs()["image"]["strategy"]["matrix"]["target"]) == set(stages)
    publish = jobs()["publish"]
    assert set(publish["needs"]) == {"try", "image"}
    assert publish["if"] == "github.ref_type == 'tag'"
    assert [name for name, job in jobs().items() if "id-token" in job.get("permissions", {})] == ["publish"]
