"""What many tests share."""

from collections.abc import Iterator

import pytest

from tests.helpers import RunningService, running_service


@pytest.fixture(scope="session")
def service() -> Iterator[RunningService]:
    """The shipped bundle, served with default settings."""
    with running_service() as running:
        yield running
