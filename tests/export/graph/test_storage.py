"""--store-weights: a smaller file, whose answers are those of float32 arithmetic."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import nn

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.references.pictures import read_reference_pictures
from aaserve.export import summary, verify
from aaserve.export.command import main
from aaserve.export.judgement.pictures import read_picture
from aaserve.models import create_model
from tests.helpers import EXAMPLES

SIZE, LABELS = 16, tuple(f"class {number}" for number in range(20))
LARGE = 1024
SMALLER = pytest.mark.parametrize("stored", ["float16", "int8"])


def network() -> nn.Module:
    torch.manual_seed(0)
    made = create_model("aa_wide_resnet10_1", num_classes=len(LABELS), image_size=SIZE)
    with torch.no_grad():
        made(torch.randn(8, 3, SIZE, SIZE))  # gives the normalisations other statistics than zero and one
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
    return made.eval()


def rounded(network: nn.Module, stored: str) -> nn.Module:
    """What the option promises: parameters, vectors aside, have values of float16, or of int8 in the last layer."""
    for parameter in network.parameters():
        if parameter.ndim == 2 and len(parameter) == len(LABELS) and stored == "int8":
            scale = parameter.data.abs().amax(dim=1, keepdim=True) / 127
            parameter.data = (parameter.data / scale).round() * scale
        elif parameter.ndim > 1:
            parameter.data = parameter.data.half().float()
    return network


def run(folder: Path, weights: dict[str, torch.Tensor], name: str, *options: str) -> int:
    (folder / "labels.txt").write_text("\n".join(LABELS))
    save_file(weights, folder / f"{name}.safetensors")
    described = ["--arch", "aa_wide_resnet10_1", "--labels", str(folder / "labels.txt"), "--preprocessing", "imagenet"]
    sized = ["--resize", str(SIZE), "--crop", str(SIZE), "--max-batch-size", "2"]
    where = ["--name", name, "--version", "1", "--repository", str(folder), "--parity-images", str(EXAMPLES)]
    return main([str(folder / f"{name}.safetensors"), *described, *sized, *where, *options])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`float32`, `float16` and `int8` of the same checkpoint."""
    folder = tmp_path_factory.mktemp("bundles")
    weights = network().state_dict()
    for stored in ("float32", "float16", "int8"):
        pictures = ["--store-reference-pictures"] * (stored == "float32")
        assert run(folder, weights, stored, "--with-attention", "--store-weights", stored, *pictures) == 0
    return folder


def large(model: Path) -> set[str]:
    """The types of the large initializers."""
    tensors = [numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer]
    return {str(tensor.dtype) for tensor in tensors if tensor.ndim > 1 and tensor.size >= LARGE}


def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)


def answers(model: Path) -> list[NDArray[np.float32]]:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": pixels()})


def test_reference_pictures_are_stored_as_the_network_sees_them_where_asked(bundles: Path) -> None:
    opened = open_bundle(bundles / "float32" / "1")
    found = read_reference_pictures(opened)
    paths = sorted(EXAMPLES.glob("*.jpg"))
    assert len(found) == len(paths) == 4
    for path, stored in zip(paths, found, strict=True):
        np.testing.assert_array_equal(stored, read_picture(path, opened.manifest.preprocessing).pixels)
    assert read_reference_pictures(open_bundle(bundles / "float16" / "1")) == []


@SMALLER
def test_the_answers_are_those_of_the_network_with_rounded_weights(bundles: Path, stored: str) -> None:
    opened = open_bundle(bundles / stored / "1")
    spec = opened.manifest.preprocessing
    normalised = (pixels() / 255 - np.array(spec.mean)) / np.array(spec.std)
    with torch.inference_mode():
        expected = rounded(network(), stored).double()(torch.from_numpy(normalised).permute(0, 3, 1, 2)).numpy()
    found = answers(opened.model_path)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(answers(bundles / "float32" / "1" / "model.onnx")[0] - expected).max() > 1e-4
    assert opened.manifest.parity.tolerance == 1e-4
    assert opened.manifest.parity.max_difference < 1e-5


def test_every_large_weight_is_stored_in_fewer_bytes(bundles: Path) -> None:
    models = [bundles / name / "1" / "model.onnx" for name in ("float32", "float16", "int8")]
    assert [large(model) for model in models] == [{"float32"}, {"float16"}, {"float16", "int8"}]
    sizes = [model.stat().st_size for model in models]
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[2] < sizes[1]


def test_a_loaded_session_computes_the_same_nodes_as_with_float32_weights(bundles: Path, tmp_path: Path) -> None:
    nodes = []
    for name in ("float32", "float16", "int8"):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        options.log_severity_level = 3  # it warns that such a file is for this machine only
        onnxruntime.InferenceSession(bundles / name / "1" / "model.onnx", options, providers=["CPUExecutionProvider"])
        nodes.append(Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node))
    assert nodes[0] == nodes[1] == nodes[2]


@pytest.mark.parametrize("stored", ["float32", "float16", "int8"])
def test_manifest_and_inspect_say_so_and_verify_accepts_it(
    bundles: Path, stored: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((bundles / stored / "1" / "manifest.json").read_text())
    assert (manifest["stored_weights"], manifest["precision"]) == (stored, "fp32")
    assert summary.main([str(bundles / stored / "1")]) == 0
    assert (f"weights stored as {stored}" in capsys.readouterr().out) == (stored != "float32")
    assert verify.main([str(bundles / stored / "1"), "--images", str(EXAMPLES)]) == 0


def test_a_float16_checkpoint_gives_the_same_bundle_as_its_float32_original(bundles: Path, tmp_path: Path) -> None:
    weights = network().state_dict()
    for name, parameter in network().named_parameters():
        if parameter.ndim > 1:
            weights[name] = weights[name].half()
    assert run(tmp_path, weights, "halved", "--with-attention", "--store-weights", "float16") == 0
    for found, expected in zip(
        answers(tmp_path / "halved" / "1" / "model.onnx"),
        answers(bundles / "float16" / "1" / "model.onnx"),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


@SMALLER
def test_a_weight_out_of_the_range_of_float16_is_refused(
    tmp_path: Path, stored: str, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = network().state_dict()
    name = next(name for name, value in weights.items() if value.ndim > 1)
    weights[name][0, 0, 0, 0] = 70_000
    assert run(tmp_path, weights, "halved", "--store-weights", stored) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error == f"error: --store-weights {stored}: expected weights up to 65504, found more in {name}"
    assert not (tmp_path / "halved").exists()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_below_fp32_has_storage_of_its_own(
    tmp_path: Path, precision: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, network().state_dict(), "halved", "--store-weights", "float16", "--precision", precision) == 1
    assert f"error: --store-weights is for --precision fp32, found {precision}" in capfd.readouterr().err
