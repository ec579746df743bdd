"""Fixtures for many tests."""

import fcntl
import gc
import os
import ssl
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import certifi
import pytest

from aaserve.service.repository.trials import Trials
from benchmarks.harness.random_bundles import FOLDER, random_bundle
from tests import tried_models
from tests.forked_python import forked_python
from tests.helpers import COMMAND, RunningService, running_service

# Read when torch is imported, which comes later, and inherited by the processes that tests start. The threads of two
# pytest workers would otherwise spin while they wait for each other: three times the CPU time on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests and the processes that they start would otherwise compile our sources anew each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LONG = ("test_gpu.py", "test_commands.py", "test_parallel.py", "test_detection_training.py", "test_precision.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that none of them begins last and runs alone."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish() -> None:
    """Let the garbage collector leave out what is there now, which stays: it takes longer than most tests."""
    gc.collect()
    gc.freeze()


def folder_of_all_workers(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True, scope="session")
def models_are_tried_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """See tests/tried_models.py."""
    folder = folder_of_all_workers(tmp_path_factory, "trials")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tried_models.FOLDER, str(folder))
        patch.setattr(Trials, "check", tried_models.remembered(folder))
        yield


@pytest.fixture(autouse=True, scope="session")
def authorities_are_read_once() -> Iterator[None]:
    """Each new client of httpx reads the certificates of all authorities, which takes longer than most tests."""
    create = ssl.create_default_context
    authorities = {certifi.where(), os.environ.get("SSL_CERT_FILE", certifi.where())}
    once = cache(create)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ssl, "create_default_context", lambda *a, **b: (once if b.get("cafile") in authorities else create)(*a, **b)
        )
        yield


@pytest.fixture(scope="session")
def service() -> Iterator[RunningService]:
    """The small model that ships, aa-cifar100, served with default settings."""
    with running_service(run=COMMAND) as running:
        yield running


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An interpreter for commands that import PyTorch: see tests/forked_python.py."""
    with forked_python(tmp_path_factory.mktemp("python")) as path:
        yield path


@pytest.fixture(scope="session")
def trained_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See tests/training/detection/squares.py; trained once for the tests of training and of the exporter."""
    from tests.training.detection.squares import train_detector  # imports PyTorch

    folder = folder_of_all_workers(tmp_path_factory, "trained_detector")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "score.json").exists():
            train_detector(folder)
    return folder


@pytest.fixture(scope="session")
def random_bundles(python: Path) -> None:
    """What the dry run of benchmarks.gpu serves, in build/: exported once for its tests and its document."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the same test run may be making them
        patch.setattr(sys, "executable", str(python))
        for network, precision in (("tiny", "fp32"), ("tiny", "fp16"), ("wide_resnet10_1", "fp32")):
            random_bundle(network, precision)
