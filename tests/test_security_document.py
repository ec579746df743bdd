"""docs/security.md names tests that exist, and what is pinned is above the floors it speaks of."""

import ast
import re

import pytest

from tests.helpers import ROOT

DOCUMENT = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", DOCUMENT)))
FLOORS = {  # the first release without the hole
    "pillow": (12, 3),
    "starlette": (0, 49, 1),
    "python-multipart": (0, 0, 26),
    "onnx": (1, 21),
    "torch": (2, 10),
}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_test_that_the_table_of_hazards_names_exists(file: str, name: str) -> None:
    functions = [node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert name in functions


def test_every_hazard_has_a_test() -> None:
    rows = [line.strip("|").split("|") for line in DOCUMENT.split("\n## Hazards\n")[1].splitlines() if line[:1] == "|"]
    assert [row[0].strip() for row in rows[2:] if "::" not in row[2]] == []
    assert len(rows) > 20


@pytest.mark.parametrize("name", FLOORS)
def test_what_is_pinned_is_above_the_floors(name: str) -> None:
    [pinned] = re.findall(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    [required] = set(re.findall(rf'"{name}>=([\d.]+)[",]', (ROOT / "pyproject.toml").read_text()))
    for version in (pinned, required):
        assert tuple(int(part) for part in version.split(".")) >= FLOORS[name]
