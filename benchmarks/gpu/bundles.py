"""The networks that are measured, as bundles: NETWORK-FORM/1 in a repository of their own.

`shipped` has its trained weights; the others have random ones, their normalisations fitted to noise so that no value
grows out of float16. Whether the graphs answer as PyTorch does is what the step `parity` is for, so none of export's
checks is repeated here, and the manifests' own figures of parity and cost mean nothing.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from aaserve.bundle.bundle import MODEL_FILE, REFERENCES_FILE, Bundle, open_bundle, sha256_of, write_bundle
from aaserve.bundle.manifest import Input, Lowered, Manifest, Output
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.graph.convert import INPUT_NAME, OPSET, OUTPUT_NAME, convert
from aaserve.export.graph.fp16 import to_fp16
from aaserve.export.graph.normalisation import PixelInput
from aaserve.export.preprocessing.presets import PRESETS
from aaserve.export.sources.checkpoint import read_checkpoint
from aaserve.export.sources.weights import load_weights
from aaserve.models import create_model
from benchmarks.circumstances import ROOT

SHIPPED = open_bundle(ROOT / "model_repository" / "aa-cifar100" / "1")
FORMS = ("fp32", "fp16")
_FITTED = 8  # pictures of noise


def repository(work: Path) -> Path:
    """Where the bundles of a run are."""
    return work / "repository"


def bundle(name: str, form: str, work: Path) -> Bundle:
    """The bundle, exported unless it exists."""
    folder = repository(work) / f"{name}-{form}" / "1"
    if not folder.exists():
        _write(name, form, work)
    return open_bundle(folder)


@cache
def network(name: str) -> nn.Module:
    """In evaluation mode, float32, on the CPU; takes uint8 pixels (B, H, W, 3). Not to be changed: copy it."""
    torch.manual_seed(0)
    if name == "shipped":
        checkpoint = read_checkpoint(ROOT / "model_repository" / "aa-cifar100" / "checkpoint.safetensors")
        described = checkpoint.metadata["recipe"]["network"]
        made = create_model(
            described["architecture"], num_classes=100, image_size=(32, 32), **described.get("options", {})
        )
        load_weights(made, checkpoint.weights)
    else:
        made = create_model(name)
        _fit(made)
    return PixelInput(made.eval(), preprocessing(name)).eval()


def preprocessing(name: str) -> Preprocessing:
    """As pictures are made ready for it."""
    small = name == "shipped" or create_on_meta(name).image_size == (32, 32)
    return SHIPPED.manifest.preprocessing if small else PRESETS["imagenet"]


def create_on_meta(name: str) -> nn.Module:
    """The network without any weights, to count on."""
    with torch.device("meta"):
        return create_model("aa_wide_resnet22_2" if name == "shipped" else name)


def pixels(name: str, rows: int, seed: int = 0) -> np.ndarray:
    """Random pictures (rows, H, W, 3), ready for the model."""
    return np.random.default_rng(seed).integers(0, 256, (rows, *preprocessing(name).crop, 3), dtype=np.uint8)


def _fit(made: nn.Module) -> None:
    """Move every normalisation half the way to the statistics of noise.

    Half the way keeps values from growing. All the way would blow up what hardly varies, as averages over hundreds of
    positions do in untrained attention, and its rounding errors with it.
    """
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    with torch.no_grad():
        made.train()(torch.randn(_FITTED, 3, *made.image_size))


@cache
def _graph(name: str) -> bytes:
    example = torch.zeros(2, *preprocessing(name).crop, 3, dtype=torch.uint8)
    return convert(network(name), example, {})


def _write(name: str, form: str, work: Path) -> None:
    model = _graph(name)
    if form == "fp16":
        model = to_fp16(model)
    spec = preprocessing(name)
    files = {MODEL_FILE: model, REFERENCES_FILE: b"[]"}
    shipped = SHIPPED.manifest
    classes = network(name)(torch.from_numpy(pixels(name, 1))).shape[1]
    changed = {
        "name": f"{name}-{form}",
        "version": "1",
        "architecture": name,
        "input": Input(name=INPUT_NAME, dtype="uint8", layout="NHWC", shape=(*spec.crop, 3)),
        "outputs": (Output(name=OUTPUT_NAME, dtype="float32", shape=(classes,)),),
        "attention": (),
        "preprocessing": spec,
        "labels": tuple(f"class {number}" for number in range(classes)),
        "precision": form,
        "opset": OPSET,
        "files": {file: sha256_of(content) for file, content in files.items()},
        "parity": shipped.parity.model_copy(update={"attention_difference": None, "attention_tolerance": None}),
        "accuracy": None,
        "lowered": None
        if form == "fp32"
        else Lowered(
            judged=1, top_1_agreement=1, top_1_fp32=None, top_1=None, allowed_drop=100, calibrated=None, quantised=None
        ),
    }
    manifest = Manifest.model_validate({**dict(shipped), **changed})
    write_bundle(repository(work), manifest, files, replace=True)
