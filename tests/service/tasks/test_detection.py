"""Outputs of a network --> labelled boxes in the picture."""

import numpy as np

from aaserve.bundle.bundle import MANIFEST_FILE
from aaserve.bundle.manifest import Manifest
from aaserve.service.tasks.detection import DetectionsWanted, detections
from tests.helpers import ROOT

SHIPPED = ROOT / "model_repository" / "aa-blood-cells" / "1"
MANIFEST = Manifest.model_validate_json((SHIPPED / MANIFEST_FILE).read_text())


def test_what_is_found_in_the_background_of_a_letterbox_is_left_out() -> None:
    """A picture 30 times as wide as high: 640x21 pixels are 320x10 of the input's 320x240."""
    row = {
        "boxes": np.float32([[0, 60, 190, 200], [10, 2, 20, 8], [30, 2, 40, 8]]),
        "scores": np.float32([0.9, 0.8, 0.7]),
        "classes": np.int64([2, 1, 0]),
        "count": np.int64(3),
    }
    found = detections(row, MANIFEST, (640, 21), DetectionsWanted(score_threshold=0.5, max_detections=1))
    assert [(each["label"], each["box"]) for each in found] == [
        ("RBC", {"left": 20.0, "top": 4.2, "right": 40.0, "bottom": 16.8})
    ]
