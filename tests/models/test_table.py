"""python -m models."""

import subprocess
import sys
from pathlib import Path

import pytest

from aaserve.models import list_models
from aaserve.models.__main__ import main
from aaserve.models.flops import Flops

ROOT = Path(__file__).parents[2]


def test_it_lists_parameters_gflops_in_both_conventions_and_the_input(python: Path) -> None:
    command = [python, "-m", "models", "aa_resnet5*"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    header, row = result.stdout.splitlines()
    assert header.split() == ["name", "parameters", "GFLOPs,", "paper", "GFLOPs,", "2xMAC", "input"]
    assert row.split() == ["aa_resnet50", "25,809,392", "8.326", "8.414", "224x224"]


def test_it_lists_every_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Their numbers are those of docs/networks.md, which test_networks_document.py computes."""
    monkeypatch.setattr("aaserve.models.__main__.count_flops", lambda network, size: Flops(0, 0))
    monkeypatch.setattr(sys, "argv", ["models"])
    assert main() == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list_models()


def test_a_pattern_that_matches_nothing_is_one_line_and_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["models", "vgg*"])
    assert main() == 1
    assert capsys.readouterr().err == "no network matches 'vgg*'; python -m models lists all\n"
