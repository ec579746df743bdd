"""The data set that most tests of detection train on."""

from pathlib import Path

import pytest

from tests.training.detection.squares import write_pictures


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    write_pictures(folder, "train", 12)
    write_pictures(folder, "val", 6, seed=1)
    return folder
