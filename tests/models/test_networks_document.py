"""docs/networks.md says what the code computes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from aaserve.models import create_model, list_models
from aaserve.models.flops import count_flops

DOCUMENT = Path(__file__).parents[2] / "docs" / "networks.md"

# | `name, override=value` | paper | parameters | paper | GFLOPs | GFLOPs, 2xMAC | paper | trained here |
ROWS = {
    cells[0].strip("`"): (cells[2], cells[4], cells[5])
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


def network_of(row: str) -> Any:
    name, *overrides = row.split(", ")
    values = dict(override.split("=") for override in overrides)
    with torch.device("meta"):
        return create_model(name, **{key: _value(text) for key, text in values.items()})


def _value(text: str) -> float | int | str:
    return int(text) if text.isdigit() else float(text) if "." in text else text


@pytest.mark.parametrize("row", ROWS)
def test_the_table_has_the_numbers_that_the_code_computes(row: str) -> None:
    network = network_of(row)
    flops = count_flops(network, network.image_size)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert ROWS[row] == (f"{parameters:,}", f"{flops.paper / 1e9:.3f}", f"{flops.plain / 1e9:.3f}")


def test_the_table_has_every_network() -> None:
    assert {row for row in ROWS if "," not in row} == set(list_models())


def test_each_figure_of_the_paper_says_whether_it_was_verified() -> None:
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            for cell in (cells[1], cells[3], cells[6]):
                assert cell == "–" or re.fullmatch(r"[\d.]+( M)? \([VR]\)( [¹²³⁴⁵⁶])?", cell)
