"""Fixtures for many tests."""

import os
from collections.abc import Iterator

import pytest

from tests.helpers import RunningService, running_service

# Read when torch is imported, which comes later, and inherited by the processes that tests start. The threads of two
# pytest workers would otherwise spin while they wait for each other: three times the CPU time on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def service() -> Iterator[RunningService]:
    """The small model that ships, aa-cifar100, served with default settings."""
    with running_service() as running:
        yield running
