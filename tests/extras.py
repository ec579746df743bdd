"""What the extras of this project require, as pyproject.toml says it."""

import tomllib
from collections.abc import Iterable

from packaging.requirements import Requirement

from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def requirements_of(extras: Iterable[str]) -> list[str]:
    """Those of the project and of its extras, other people's packages only."""
    found: list[str] = []
    waiting = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    while waiting:
        requirement = Requirement(text := waiting.pop())
        if requirement.name == "aaserve":
            waiting += [text for extra in requirement.extras for text in EXTRAS[extra]]
        else:
            found.append(text)
    return found
