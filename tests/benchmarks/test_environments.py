"""An environment begins with what this one has of it, in the versions that are asked for."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.harness.environments import link_packages

LISTED = "from importlib.metadata import distributions; print(*sorted(each.name for each in distributions()))"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    return tmp_path


def found_in(folder: Path) -> list[str]:
    """Names of the packages that the interpreter there finds."""
    command = [folder / "bin" / "python", "-I", "-c", LISTED]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_package_comes_with_what_it_requires_and_with_nothing_else(folder: Path) -> None:
    link_packages([f"rich=={version('rich')}"], folder)
    assert found_in(folder) == ["Pygments", "markdown-it-py", "mdurl", "rich"]
    subprocess.run([folder / "bin" / "python", "-I", "-c", "import rich.markdown"], check=True)


def test_another_version_and_a_package_that_is_not_here_are_left_to_pip(folder: Path) -> None:
    link_packages(["iniconfig==0.1", "mdurl>=0.1", "no-such-package>=1"], folder, ["mdurl==0.0.1"])
    assert found_in(folder) == []


def test_what_is_required_of_a_package_holds_for_its_requirements_too(folder: Path) -> None:
    link_packages(["rich"], folder, ["mdurl==0.0.1"])
    assert found_in(folder) == ["Pygments", "markdown-it-py", "rich"]


def test_a_requirement_of_another_system_is_not_linked(folder: Path) -> None:
    link_packages(["mdurl; sys_platform == 'none'"], folder)
    assert found_in(folder) == []
