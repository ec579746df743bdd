"""What is documented is what is there: settings, error codes, metrics, and the README's first screen."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from export.command import _parser as export_parser
from service import errors
from service.metrics import Metrics
from service.problems import FRAMEWORK_CODES
from service.settings import Settings
from tests.helpers import ROOT, RunningService

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
README = (ROOT / "README.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the rows under a heading of operations.md."""
    section = OPERATIONS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in table("Settings")}
    expected = {
        name: "cores" if field.default_factory else str(field.default) for name, field in Settings.model_fields.items()
    }
    assert documented == expected
    assert all(field.description for field in Settings.model_fields.values())


def test_every_error_code_is_documented_with_its_status() -> None:
    documented = {(row[1].strip("`"), int(row[0])) for row in table("Errors")}
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ServiceError)]
    framework = {(code, status) for status, code in FRAMEWORK_CODES.items()}
    assert documented == {(kind.code, kind.status) for kind in ours} | framework


def test_every_metric_is_documented_with_its_labels() -> None:
    documented = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in table("Metrics")}
    found = {}
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            name = metric.describe()[0].name + ("_total" if metric.describe()[0].type == "counter" else "")
            found[name] = set(metric._labelnames)
    assert documented == found


def test_every_option_of_export_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "export.md").read_text()
    documented = set(re.findall(r"--[a-z][a-z-]+", text))
    options = {option for action in export_parser()._actions for option in action.option_strings}
    assert documented == options - {"-h", "--help"}


def test_the_readmes_curl_gives_the_readmes_answer(service: RunningService) -> None:
    command, answer = re.search(r"^    \$ (curl .*)\n    (\{.*)$", README, re.MULTILINE).groups()
    arguments = [
        word.replace("localhost:8080", service.client.base_url.netloc.decode()) for word in shlex.split(command)
    ]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    found, expected = json.loads(done.stdout), json.loads(answer)
    for ours, theirs in zip(found["predictions"], expected["predictions"], strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=5e-4)
    assert found["model"], found["version"] == (expected["model"], expected["version"])


def test_the_readme_names_targets_and_files_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:\$ |`)make ([a-z-]+)", README)) <= targets
    for path in re.findall(r"\b(?:docs|service|bundle|export|models|training|benchmarks)/[\w./-]*\w", README):
        assert (ROOT / path).exists(), path


def test_the_example_in_plain_onnx_runtime_gives_the_services_answer(service: RunningService) -> None:
    script = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    answer = service.classify((ROOT / "examples" / "rocket.jpg").read_bytes(), top_k=1).json()
    assert done.stdout.strip() == answer["predictions"][0]["label"]
