"""What each peer has to answer for the pictures of examples/."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

import aaserve.bundle.telemetry  # noqa: F401  (before onnxruntime)
from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.model_input import read_input
from tests.helpers import ROOT

import onnxruntime  # isort: skip

EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
SHIPPED = ROOT / "model_repository" / "aa-cifar100" / "1"


def expected_top_1(folder: Path, pictures: Iterable[Path]) -> list[int]:
    """The bundle's own preprocessing and ONNX Runtime, without a server."""
    opened = open_bundle(folder)
    manifest = opened.manifest
    session = onnxruntime.InferenceSession(opened.model_path, providers=["CPUExecutionProvider"])
    rows = [read_input(picture.read_bytes(), manifest, max_pixels=50_000_000) for picture in pictures]
    logits = [session.run([manifest.outputs[0].name], {manifest.input.name: row[np.newaxis]})[0] for row in rows]
    return [int(one.argmax()) for one in logits]
