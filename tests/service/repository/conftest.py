"""A repository of several versions, and keys to change it."""

import shutil
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY
from tests.service.repository.changing import KEY, NEW, OLD, digest
from tests.toy_bundles import write_fragile_bundle


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The shipped bundle, and fragile/1 and fragile/2, which say lower and upper case."""
    folder = Path(shutil.copytree(REPOSITORY, tmp_path / "repository"))
    write_fragile_bundle(folder, version="1", labels=OLD)
    write_fragile_bundle(folder, version="2", labels=NEW)
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# who\nadmin,infer,metrics {digest(KEY)} operations\nmetrics {digest('only for metrics')}\n")
    return path
