"""The Makefile: every target can be planned, and finds the packages that its modules import."""

import ast
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.extras import requirements_of
from tests.helpers import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)
MODULES = [  # (environment, module) of each `$(ENVIRONMENT)/bin/python -m MODULE`
    (environment, module)
    for environment, module in re.findall(r"\$\((\w+)\)/bin/python -m ([\w.]+)", MAKEFILE)
    if (ROOT / module.split(".")[0]).is_dir()
]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_help_lists_every_target() -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    shown = re.findall(r"^  make (\S+)", make("help").stdout, re.MULTILINE)
    assert sorted(shown) == sorted(TARGETS) == sorted(phony.split())


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_planned(target: str) -> None:
    planned = make("--dry-run", target)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout


@pytest.mark.parametrize(("environment", "module"), sorted(set(MODULES)))
def test_every_module_finds_what_it_imports_in_its_environment(environment: str, module: str) -> None:
    lacking = distributions_of(module) - installed_in(environment)
    assert lacking == set(), f"make installs {sorted(extras_of(environment))} into {environment}"


def test_an_import_that_the_environment_lacks_is_found() -> None:
    assert "rich" in distributions_of("tests.faults.soak") - closure(["ray"])


def extras_of(environment: str) -> set[str]:
    """The extras of this project that make installs there."""
    [listed] = re.findall(rf"\$\({environment}\)/bin/\$\(PIP_INSTALL\) --editable '\.\[([\w,-]+)\]'", MAKEFILE)
    return set(listed.split(","))


def installed_in(environment: str) -> set[str]:
    return closure(extras_of(environment))


def closure(extras: set[str] | list[str]) -> set[str]:
    """What these extras install, what that needs in turn included."""
    found: set[str] = set()
    waiting = requirements_of(extras)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if name not in found:
            found.add(name)
            with suppress(PackageNotFoundError):  # one of another environment
                waiting += requires(name) or []
    return found


def distributions_of(module: str) -> set[str]:
    """The packages that importing a module of ours loads, directly or by others of ours."""
    owners = _owners()
    found: set[str] = set()
    seen: set[Path] = set()
    waiting = [file_of(module)]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported(ast.parse(path.read_text())):
            top = name.split(".")[0]
            if (ROOT / top).is_dir():
                waiting += [file for file in (file_of(name), file_of(name.rpartition(".")[0])) if file]
            elif top not in sys.stdlib_module_names:
                found |= {canonicalize_name(owner) for owner in owners[top][:1]}
    return found


_owners = cache(packages_distributions)


def imported(tree: ast.Module) -> list[str]:
    """The names that are imported as soon as the module is, `from a import b` as a.b."""
    names: list[str] = []
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            names += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            names += [f"{statement.module}.{alias.name}" for alias in statement.names]
    return names


def file_of(module: str) -> Path | None:
    """The file that a module of ours is, `__main__` of a package; None for a name within a module."""
    path = ROOT / module.replace(".", "/")
    candidates = [path.with_suffix(".py"), path / "__main__.py", path / "__init__.py"]
    return next((candidate for candidate in candidates if candidate.is_file()), None)
