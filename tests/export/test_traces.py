"""The traces that tests share are those that PyTorch makes."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from torch import nn

from aaserve.export.graph.convert import convert
from aaserve.models import create_model
from tests.traces import Traces


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("aa_wide_resnet10_1", num_classes=3, image_size=16).eval()


def test_a_shared_trace_becomes_the_same_graph_as_a_new_one(
    tmp_path: Path, traced_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = torch.zeros(2, 3, 16, 16)
    new = convert(network(), example, {})
    monkeypatch.setattr(torch.onnx, "export", Traces(tmp_path).export)
    kept = convert(network(), example, {})
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("torch.export.export", None)  # the next run traces nothing
    assert convert(network(), example, {}) == kept
    graphs = [onnx.load_model_from_string(model).graph for model in (new, kept)]
    first, second = ([node.op_type for node in graph.node] for graph in graphs)
    assert first == second  # only numbers in names differ
    inputs = torch.randn(3, 3, 16, 16).numpy()
    answers = [onnxruntime.InferenceSession(model).run(None, {"image": inputs})[0] for model in (new, kept)]
    np.testing.assert_array_equal(*answers)


class Doubled(nn.Module):
    """A constant that is no weight."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def test_networks_and_inputs_that_differ_share_no_trace(tmp_path: Path) -> None:
    ordered, reordered = Doubled(4), Doubled(4)
    ordered.kinds, reordered.kinds = {0, 8}, {8, 0}  # as the strings of a set in two processes
    assert list(ordered.kinds) != list(reordered.kinds)
    traced = []

    def trace(network: nn.Module, example: tuple, **options: object) -> torch.onnx.ONNXProgram:
        traced.append(network)
        return program

    graph = '<ir_version: 10, opset_import: ["": 20]> identity (float[1] x) => (float[1] y) { y = Identity(x) }'
    program = torch.onnx.ONNXProgram(onnx_ir.from_proto(onnx.parser.parse_model(graph)), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", trace)
        traces = Traces(tmp_path)
    image, other_image = (torch.zeros(2, 3, size, 16) for size in (16, 12))
    different = [
        (Doubled(2), image, "image"),
        (Doubled(3), image, "image"),
        (Doubled(2), other_image, "image"),
        (Doubled(2), image.byte(), "image"),
        (Doubled(2), image, "picture"),
        (network(seed=0), image, "image"),
        (network(seed=1), image, "image"),
        (ordered, image, "image"),
    ]
    for _ in range(2):
        for module, example, name in different:
            traces.export(module, (example,), input_names=[name])
    traces.export(reordered, (image,), input_names=["image"])
    assert traced == [module for module, _, _ in different]
