"""Documents match the code: settings, error codes, metrics, addresses, and the files and names that they mention."""

import re
from pathlib import Path

import pytest

from aaserve.export.command import _parser as export_parser
from aaserve.service import errors
from aaserve.service.http.app import create_app
from aaserve.service.http.error_responses import FRAMEWORK_CODES
from aaserve.service.observability.gpu_metrics import GpuMetrics
from aaserve.service.observability.metrics import Metrics
from aaserve.service.settings import Settings
from tests.helpers import ROOT, RunningService

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


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
    found |= {family.name: {"device"} for family in GpuMetrics(0).describe()}
    assert documented == found


def test_every_option_of_export_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "exporting.md").read_text()
    documented = set(re.findall(r"--[a-z][a-z-]+", text))
    options = {option for action in export_parser()._actions for option in action.option_strings}
    assert documented == options - {"-h", "--help"}


# Decision records describe the code as it was when the decision was made, so the files they name may be gone.
CURRENT = [document for document in DOCUMENTS if document.parent.name != "decisions"]


@pytest.mark.parametrize("document", CURRENT, ids=lambda document: document.stem)
def test_what_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|\$ |`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for path in re.findall(
        r"(?<![/\w])(?:docs|service|bundle|export|models|training|benchmarks|deploy|tests)/[\w./-]*\w", text
    ):
        assert list(ROOT.glob(f"{path}*")), path
    for path in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (document.parent / path).exists(), path
    for module in re.findall(r"python -m ([a-z_.]+)", text):
        assert (ROOT / module.replace(".", "/")).is_dir() or (ROOT / f"{module.replace('.', '/')}.py").exists(), module


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_a_metric_or_an_alert_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    metrics = {row[0].strip("`") for row in table("Metrics")}
    for name in re.findall(r"\baaserve_[a-z_]+[a-z]\b", text):
        assert re.sub("_(bucket|sum|count)$", "", name) in metrics, name
    alerts = set(re.findall(r"alert: (\w+)", (ROOT / "deploy/prometheus/rules/alerts.yml").read_text()))
    assert set(re.findall(r"\bAaserve[A-Z]\w+", text)) <= alerts


def test_every_address_is_documented() -> None:
    requests = (ROOT / "docs" / "requests.md").read_text()
    documented = set(re.findall(r"(?<![\w`])/[\w{}/\[\].-]+", requests))
    app = create_app(Settings())
    for path in app.openapi()["paths"]:
        prefixes = ("/v2", "/predictions", "/admin/models")
        assert path in documented or path.startswith(prefixes), path


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_needs_anything_from_elsewhere(service: RunningService, path: str) -> None:
    assert service.client.get(path).json()["code"] == "not_found"
    assert service.client.get("/openapi.json").json()["info"]["title"] == "aaserve"
