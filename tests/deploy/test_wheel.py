"""The wheel: everything of aaserve under that one name, and the command at work where nothing else is."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from aaserve.command import SUBCOMMANDS
from benchmarks.harness.environments import link_packages
from tests.extras import requirements_of
from tests.helpers import EXAMPLES, ROOT

FOLDERS = ("bundle", "examples", "export", "model_repository", "models", "service", "training")
LEFT_OUT = (".safetensors",)  # what only the export needs


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves its `build/` where it works."""
    sources = tmp_path_factory.mktemp("sources")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, sources / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "aaserve", sources / "aaserve", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / file, sources)
    # No isolation: setuptools is here, because torch requires it.
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", sources / "dist", sources], check=True)
    [built] = (sources / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, in an environment that has the extra cpu and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    link_packages(requirements_of(["cpu"]), folder, (ROOT / "constraints.txt").read_text().splitlines())
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--quiet", "--disable-pip-version-check"]
    pinned = ["--no-compile", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, "install", *pinned, f"{wheel}[cpu]"], check=True)
    return folder / "bin" / "aaserve"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a user, with names that are ours, Python's and a library's: importing any of them ends the test."""
    for name in ("models.py", "json.py", "numpy.py", "onnxruntime.py", "service/__init__.py", "aaserve/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"raise SystemExit('{name} of the current folder was imported')\n")
    return tmp_path


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AASERVE_", "PYTHON"))}
    return subprocess.run(
        command, cwd=folder, env={**clean, **environment}, capture_output=True, text=True, timeout=300
    )


def test_holds_every_file_under_the_name_aaserve(wheel: Path) -> None:
    files = {
        f"aaserve/{path.relative_to(ROOT)}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in LEFT_OUT
    }
    own = {f"aaserve/{path.name}" for path in (ROOT / "aaserve").glob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if ".dist-info/" not in name} == own | files
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serves_what_ships_from_any_folder(installed: Path, folder: Path, workers: str) -> None:
    options = ["--port", "0", "--workers", workers, "--log-format", "console"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AASERVE_", "PYTHON"))}
    with subprocess.Popen(
        [installed, "serve", *options], cwd=folder, env=clean, stderr=subprocess.PIPE, text=True
    ) as service:
        try:
            log, ready = "", 0
            for line in service.stderr:
                log += line
                ready += bool(re.search(r"\bready\b", line))
                if ready == int(workers):
                    break
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", log)
            assert found, log
            body, headers = (EXAMPLES / "cup.jpg").read_bytes(), {"Content-Type": "image/jpeg"}
            request = urllib.request.Request(f"http://127.0.0.1:{found[1]}/classify?top_k=1", body, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                content = json.load(answer)
            assert (content["model"], content["predictions"][0]["label"]) == ("aa-imagenet", "espresso")
            healthy = run(installed, "healthcheck", folder=folder, AASERVE_PORT=found[1])
            assert (healthy.returncode, healthy.stderr) == (0, "")
        finally:
            service.terminate()
            service.communicate(timeout=60)
    assert service.returncode == 0


def test_classifies_files_from_any_folder(installed: Path, folder: Path) -> None:
    done = run(installed, "classify", EXAMPLES / "cup.jpg", "--top-k", "1", folder=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["label"] == "espresso"


def test_what_is_not_installed_is_one_line_that_names_the_extra(installed: Path, folder: Path) -> None:
    needed = {"export": "cpu,export", "inspect": "export", "evaluate": "cpu,export", "train": "training"}
    for name, extra in needed.items():
        done = run(installed, name, "x", "--name", "x", "--version", "1", folder=folder)
        assert done.returncode == 1
        assert re.fullmatch(
            rf"error: aaserve {name} needs the extra {extra}, found no module named '\w+'\n", done.stderr
        )


def test_a_network_of_the_current_folder_is_found_when_it_is_named(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("import torch\n\n\ndef build():\n    return torch.nn.Identity()\n")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    script = "from aaserve.export.sources.factory import build_own; print(build_own('models:build', {}))"
    done = run(sys.executable, "-P", "-c", script, folder=tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    assert (done.returncode, done.stdout) == (0, "Identity()\n"), done.stderr


def test_bundles_are_verified_from_any_folder(installed: Path, folder: Path) -> None:
    done = run(installed, "verify", ROOT / "model_repository" / "aa-cifar100" / "1", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "whole; 5 pictures answered as when it was made" in done.stdout


def test_help_lists_each_subcommand_in_one_line(installed: Path, folder: Path) -> None:
    shown = run(installed, "--help", folder=folder).stdout
    assert re.findall(r"^  (\w+) +\S.*$", shown, re.MULTILINE) == list(SUBCOMMANDS)
    assert run(installed, folder=folder).stdout == shown
    unknown = run(installed, "dance", folder=folder)
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: no subcommand 'dance'; expected one of serve, classify, ")
    for name in ("serve", "classify", "verify", "healthcheck"):  # the others need another extra
        assert run(installed, name, "--help", folder=folder).stdout.startswith(f"usage: aaserve {name} [-h]")
