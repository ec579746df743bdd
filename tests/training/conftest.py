"""The data set that most tests train on."""

from pathlib import Path

import pytest

from tests.training.tiny import write_cifar_100


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar_100(tmp_path_factory.mktemp("data"))
