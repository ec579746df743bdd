"""Documents show what was measured last."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ray_serve, sizing
from benchmarks.tables import rewrite, section
from tests.helpers import ROOT


@pytest.mark.parametrize(
    ("document", "name", "results", "tables"),
    [("scaling.md", "sizing", "*-sizing.json", sizing.tables), ("ray.md", "ray", "*-ray-serve.json", ray_serve.tables)],
)
def test_a_document_shows_the_newest_result(
    document: str, name: str, results: str, tables: Callable[[dict[str, Any], str], str]
) -> None:
    newest = sorted((ROOT / "benchmarks" / "results").glob(results))[-1]
    shown = section(ROOT / "docs" / document, name)
    assert shown == tables(json.loads(newest.read_text()), str(newest.relative_to(ROOT)))


def test_a_section_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("before\n\n<!-- it -->\n\nold\n\n<!-- end it -->\n\nafter\n")
    rewrite(document, "it", "new")
    assert document.read_text() == "before\n\n<!-- it -->\n\nnew\n\n<!-- end it -->\n\nafter\n"
