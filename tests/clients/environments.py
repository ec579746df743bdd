"""Environments for clients that pin libraries which we pin otherwise: .venv-NAME, made on first use from NAME.txt."""

from pathlib import Path

from benchmarks.harness.environments import make_environment
from tests.helpers import ROOT


def environment(name: str, requirements_in: Path = Path(__file__).parent) -> Path:
    """The interpreter that has it installed."""
    return make_environment(ROOT / f".venv-{name}", requirements_in / f"{name}.txt")
