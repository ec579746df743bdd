"""python -m models."""

import subprocess
import sys
from pathlib import Path

import pytest

from aaserve.models import list_models
from aaserve.models.__main__ import main

ROOT = Path(__file__).parents[2]


def table(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "models", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def test_it_lists_parameters_gflops_in_both_conventions_and_the_input() -> None:
    result = table("aa_resnet5*")
    assert result.returncode == 0
    header, row = result.stdout.splitlines()
    assert header.split() == ["name", "parameters", "GFLOPs,", "paper", "GFLOPs,", "2xMAC", "input"]
    assert row.split() == ["aa_resnet50", "25,809,392", "8.326", "8.414", "224x224"]


def test_it_lists_every_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["models"])
    assert main() == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list_models()


def test_a_pattern_that_matches_nothing_is_one_line_and_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["models", "vgg*"])
    assert main() == 1
    assert capsys.readouterr().err == "no network matches 'vgg*'; python -m models lists all\n"
