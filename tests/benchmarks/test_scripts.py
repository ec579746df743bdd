"""Every script of benchmarks/ finds what it imports; what runs beside another server has that server's packages."""

from importlib import import_module

import pytest

from tests.helpers import ROOT

SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("__"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_finds_what_it_imports(name: str) -> None:
    import_module(f"benchmarks.{name}")
