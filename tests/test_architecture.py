"""The arrows between the packages, proved by importing."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, ROOT

MODEL = REPOSITORY / "aa-cifar100" / "1" / "model.onnx"


@cache
def loaded_by(module: str) -> set[str]:
    """The folders of aaserve and the other packages that importing `module` loads."""
    script = (
        f"import sys, {module}; print(*{{name.removeprefix('aaserve.').partition('.')[0] for name in sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["aaserve.service.__main__", "aaserve.bundle.bundle"])  # they import the others
def test_the_serving_side_never_loads_torch_or_what_makes_bundles(module: str) -> None:
    assert not loaded_by(module) & {"torch", "onnx", "onnxscript", "models", "export", "training", "safetensors"}


def test_the_bundle_knows_nothing_of_http_or_onnx_runtime() -> None:
    assert not loaded_by("aaserve.bundle.bundle") & {"service", "fastapi", "starlette", "onnxruntime"}


def test_importing_the_service_reads_no_settings_and_starts_nothing() -> None:
    script = "import threading, aaserve.service.http.app; print(threading.active_count())"
    environment = {**os.environ, "AASERVE_PORT": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    "module",
    [
        "aaserve.service.engine.runtime.session",
        "aaserve.export.graph.runtime",
        "aaserve.export.verify",
        "benchmarks.limits",
    ],
)
def test_onnx_runtime_neither_identifies_the_machine_nor_reports(module: str, tmp_path: Path, python: Path) -> None:
    """ONNX Runtime keeps still under CI of its own accord, so the test takes that variable away."""
    script = (
        f"import {module}, numpy, time; session = {module}.onnxruntime.InferenceSession('{MODEL}'); "
        "session.run(None, {'image': numpy.zeros((1, 32, 32, 3), numpy.uint8)}); time.sleep(0.5)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "ORT_", "XDG_"))}
    environment["HOME"] = str(tmp_path)
    subprocess.run([python, "-"], input=script, text=True, cwd=ROOT, env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_openvino_neither_identifies_the_machine_nor_reports(tmp_path: Path) -> None:
    """It would at its import, to Google Analytics, in a process that it forks; it keeps still under CI."""
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    script = f"""
import os, sys, threading
def watch(event, arguments):
    if event.startswith(("socket.", "os.fork", "subprocess.")):
        os._exit(3)
sys.addaudithook(watch)
from aaserve.service.engine.runtime import openvino_runtime
import numpy
compiled = openvino_runtime.compiled(open({str(MODEL)!r}, "rb").read(), precision="fp32", streams=1, threads=1)
compiled.infer_new_request({{"image": numpy.zeros((1, 32, 32, 3), numpy.uint8)}})
assert not [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module]
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "XDG_"))}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment | {"HOME": str(tmp_path)})
    assert done.returncode == 0
    assert list(tmp_path.rglob("*")) == []


def test_what_serving_installs_contains_neither_torch_nor_ray() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    serving = project["dependencies"] + extras["service"] + extras["cpu"] + extras["gpu"]
    elsewhere = ("torch", "onnx>", "onnxscript", "ray")
    assert not [requirement for requirement in serving if requirement.startswith(elsewhere)]
    assert "aaserve[cpu" not in " ".join(extras["gpu"])


def test_everything_that_is_installed_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    extras = project["optional-dependencies"]
    direct = [*project["dependencies"], *(r for name, extra in extras.items() if name != "gpu" for r in extra)]
    names = {re.split(r"\[|>=", requirement)[0].lower() for requirement in direct} - {"aaserve"}
    assert names <= pinned


FORBIDDEN_MODULES = {  # what could run or unpack foreign code, or fetch something
    *("pickle", "marshal", "shelve", "dill", "joblib", "ctypes", "runpy", "importlib", "yaml", "subprocess"),
    *("urllib", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "urllib3", "xmlrpc", "webbrowser"),
}
FORBIDDEN_NAMES = {
    *("eval", "exec", "compile", "__import__", "breakpoint", "np.load", "allow_pickle"),
    *("os.system", "os.popen", "os.execv", "os.execve", "os.execvp", "os.spawnv", "os.posix_spawn", "os.fork"),
    *("socket.create_connection", "asyncio.open_connection", "asyncio.create_subprocess_exec"),
    *("register_custom_ops_library", "add_initializer", "add_external_initializers"),
}
ALLOWED = {
    "bundle/coco/average_precision.py": {"eval"},  # a dictionary of pycocotools; the service never imports this
    "service/http/load_shedding.py": {"urllib"},  # unquote, as uvicorn does it with the same path
    "service/http/body/encoded_text.py": {"urllib"},  # unquote, for the text of a data URI
    "service/observability/gpu_metrics.py": {"ctypes"},  # the driver's libcuda, by a fixed name
    "service/healthcheck.py": {"http"},  # another process, which asks this one and no other
    "service/observability/logs.py": {"urllib"},  # quote, which makes a path printable
    "service/http/error_responses.py": {"http"},  # HTTPStatus, the names of the numbers
    "service/repository/trials.py": {"subprocess"},  # a part of this service, which tries a model
    "service/tuning/command.py": {"subprocess"},  # a part of this service, which measures a model
    "service/process/supervisor.py": {"subprocess"},  # this service itself, N times
}


@pytest.mark.parametrize("folder", ["service", "bundle"])
def test_the_serving_side_can_neither_run_foreign_code_nor_fetch_anything(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text())
        found = FORBIDDEN_MODULES.intersection(modules_in(tree)) | FORBIDDEN_NAMES.intersection(names_in(tree))
        assert found == ALLOWED.get(name, set()), name


def modules_in(tree: ast.AST) -> Iterator[str]:
    """The first part of what is imported."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module):
                yield (module or "").partition(".")[0]


def names_in(tree: ast.AST) -> Iterator[str]:
    """Names and keywords as they are used; `a.b` is found as that and as `b`, but for `re.compile`."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(name) | ast.keyword(str(name)):
                yield name
            case ast.Attribute(ast.Name(owner), name):
                yield f"{owner}.{name}"
                yield "" if name == "compile" and owner == "re" else name
            case ast.Attribute(_, name):
                yield name
            case ast.ImportFrom(module, names):
                yield from (f"{module}.{alias.name}" for alias in names)


def test_nothing_that_is_timed_looks_at_the_wall_clock() -> None:
    """It can be set back. Log lines take theirs from `logging`."""
    found = set()
    for path in sorted((ROOT / "service").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {f"{ast.unparse(node.value)}.{node.attr}"} if isinstance(node, ast.Attribute) else set()
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
            if names & {"time.time", "time.time_ns", "datetime.datetime", "datetime.datetime.now"}:
                found.add(str(path.relative_to(ROOT)))
    # Dates for people: last_inference, spans.
    assert found == {"service/engine/statistics.py", "service/observability/tracing.py"}


def test_everything_is_imported_by_its_full_name() -> None:
    """`service.errors` and `aaserve.service.errors` would be two modules, with two classes of each name."""
    short = re.compile(r"(?:^\s*|\\n)(?:from|import) (?:bundle|export|models|service|training)\b", re.MULTILINE)
    folders = ("bundle", "export", "models", "service", "training", "tests", "benchmarks", "deploy", "docs")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
    assert len(files) > 300
    assert [str(path) for path in files if short.search(path.read_text()) and "decisions" not in path.parts] == []
