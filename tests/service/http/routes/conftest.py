"""A service with a detector, for the tests of its addresses."""

from collections.abc import Iterator

import pytest

from tests.detector_bundle import NAME, write_detector
from tests.helpers import RunningService, running_service
from tests.service.http.routes.detecting import CLASSIFIER
from tests.toy_bundles import write_fragile_bundle


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A model of classification, and one of detection: version 1 stretches pictures, version 2 is a letterbox."""
    repository = tmp_path_factory.mktemp("detection")
    write_fragile_bundle(repository, name=CLASSIFIER)
    write_detector(repository, version="1", fit="stretch")
    write_detector(repository, version="2", fit="letterbox")
    (repository / NAME / "serving.toml").write_text('versions = "all"\n')
    with running_service(repository=repository) as running:
        yield running
