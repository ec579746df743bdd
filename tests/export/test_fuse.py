"""--optimize cuda: attention is one operator, and the answers stay. On the CPU, which has the operator too."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import shape_inference

from bundle.bundle import open_bundle
from bundle.preprocessing import Preprocessing
from export.command import main
from export.convert import convert
from export.errors import ExportError
from export.half import to_half
from export.normalisation import PixelInput
from export.parity import check_parity
from models import create_model
from models.attention import AttentionAugmentedConv2d
from tests.export.test_networks import shallow
from tests.helpers import REPOSITORY, ROOT

SHIPPED = open_bundle(REPOSITORY / "aa-cifar100" / "1")
CHECKPOINT = ROOT / "model_repository" / "aa-cifar100" / "checkpoint.safetensors"


def network_and_spec(name: str, size: tuple[int, int]) -> tuple[torch.nn.Module, Preprocessing]:
    torch.manual_seed(0)
    network = create_model(name, num_classes=7, image_size=size).eval()
    return network, SHIPPED.manifest.preprocessing.model_copy(update={"resize": size, "crop": size})


def fused(network: torch.nn.Module, spec: Preprocessing) -> bytes:
    example = torch.zeros(2, *spec.crop, 3, dtype=torch.uint8)
    return convert(PixelInput(network, spec).eval(), example, {}, fused=True)


@pytest.fixture(scope="module")
def small() -> tuple[torch.nn.Module, Preprocessing, bytes]:
    """A network that is not square, what it sees, and its graph with fused attention."""
    network, spec = network_and_spec("aa_wide_resnet22_2", (16, 24))
    return network, spec, fused(network, spec)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_answers_are_the_networks(small: tuple[torch.nn.Module, Preprocessing, bytes], precision: str) -> None:
    network, spec, model = small
    if precision == "fp16":
        model = to_half(model)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *spec.crop, 3), dtype=np.uint8)
    check_parity(network, model, pixels, spec, batch_sizes=(1, 3), precision=precision)  # type: ignore[arg-type]


def test_every_attention_is_one_operator_whose_heads_are_equally_deep_by_eights(
    small: tuple[torch.nn.Module, Preprocessing, bytes],
) -> None:
    network, _, content = small
    model = shape_inference.infer_shapes(onnx.load_model_from_string(content))
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.value_info
    }
    found = [node for node in model.graph.node if node.op_type == "Attention"]
    layers = [layer for layer in network.modules() if isinstance(layer, AttentionAugmentedConv2d)]
    assert len(found) == len(layers) > 0
    assert "Softmax" not in {node.op_type for node in model.graph.node}
    for node in found:
        [depth] = {shapes[name][-1] for name in (*node.input, *node.output)}
        assert depth % 8 == 0


def test_a_network_without_attention_is_refused() -> None:
    network, spec = network_and_spec("wide_resnet16_2", (32, 32))
    with pytest.raises(ExportError, match="expected a network with attention layers, found none"):
        fused(shallow(network, 1), spec)


def test_a_network_whose_pooling_the_cpu_would_compute_is_refused() -> None:
    network, spec = network_and_spec("aa_resnet50", (32, 32))
    with pytest.raises(ExportError, match="expected a network without MaxPool, found one"):
        fused(shallow(network, 1), spec)


def run(tmp_path: Path, *options: str) -> int:
    return main([str(CHECKPOINT), "--name", "m", "--version", "1", "--repository", str(tmp_path), *options])


def test_the_bundle_says_its_opset_and_can_be_served(tmp_path: Path) -> None:
    assert run(tmp_path, "--optimize", "cuda") == 0
    manifest = json.loads((tmp_path / "m" / "1" / "manifest.json").read_text())
    assert manifest["opset"] == 23
    assert onnx.load(tmp_path / "m" / "1" / "model.onnx").opset_import[0].version == 23
    assert "--optimize cuda" in manifest["provenance"]["command"]
    open_bundle(tmp_path / "m" / "1")  # as the service does: standard operators only


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--with-attention"], "expected no --optimize cuda"),
        (["--precision", "int8", "--calibration", "examples"], "is for --precision fp32 and fp16"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert run(tmp_path, "--optimize", "cuda", *options) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
