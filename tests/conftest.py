"""Fixtures for many tests."""

import os
import sys
from collections.abc import Iterator

import pytest

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


@pytest.fixture(scope="session")
def service() -> Iterator[RunningService]:
    """The small model that ships, aa-cifar100, served with default settings."""
    with running_service(run=COMMAND) as running:
        yield running
