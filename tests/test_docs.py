"""Documents match the code: settings, error codes, metrics, addresses, and the files and names that they mention."""

import re
from pathlib import Path

import pytest

from aaserve.command import SUBCOMMANDS
from aaserve.export.command import _parser as export_parser
from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from docs import reference
from tests.helpers import ROOT, RunningService

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_reference_is_up_to_date() -> None:
    text = reference.DOCUMENT.read_text()
    assert text == reference.updated(text), "run make reference"
    assert all(table().count("\n") > 10 for table in reference.TABLES.values())


def test_every_option_of_export_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "exporting.md").read_text()
    documented = set(re.findall(r"--[a-z][a-z-]+", text))
    options = {option for action in export_parser()._actions for option in action.option_strings}
    assert documented == options - {"-h", "--help"}


def anchors(document: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


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
    for path, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", text):
        linked = document.parent / path if path else document
        assert linked.exists(), path
        assert not anchor or anchor in anchors(linked), f"{path}#{anchor}"
    for module in re.findall(r"python -m ([a-z_.]+)", text):
        assert (ROOT / module.replace(".", "/")).is_dir() or (ROOT / f"{module.replace('.', '/')}.py").exists(), module


@pytest.mark.parametrize("document", CURRENT, ids=lambda document: document.stem)
def test_a_subcommand_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"(?:`|^|\$ )aaserve ([a-z]+)\b", document.read_text(), re.MULTILINE)
    assert set(named) <= set(SUBCOMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_a_metric_or_an_alert_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    metrics = set(re.findall(r"^\| `(\w+)`", reference.metrics(), re.MULTILINE))
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


def test_every_decision_says_whether_it_still_holds() -> None:
    for record in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        status = record.read_text().split("\n\n")[1]
        assert re.match(r"\*\*Status\.\*\* (Accepted|Superseded)\b", status), f"{record.name}: {status!r}"
        assert all(list(record.parent.glob(f"{number}-*.md")) for number in re.findall(r"\b\d{4}\b(?!-)", status)), (
            status
        )
