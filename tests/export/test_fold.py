"""Normalisation disappears from the graph, and the answers stay."""

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from export.convert import convert
from models import create_model
from models.attention import AttentionAugmentedConv2d


def unlike_fresh(network: nn.Module) -> nn.Module:
    """Give every normalisation statistics and weights that fresh ones do not have."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return network.eval()


class Augmented(nn.Module):
    """An augmented convolution and its normalisation, as the networks have them."""

    def __init__(self, *, value_channels: int = 4, feature_size: tuple[int, int] = (6, 8)) -> None:
        super().__init__()
        self.conv = AttentionAugmentedConv2d(
            5, 8, 3, key_channels=4, value_channels=value_channels, num_heads=2, feature_size=feature_size
        )
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu()


class Lonely(nn.Module):
    """A normalisation with no convolution before it, whose input is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(x).relu() + x


class Shared(nn.Module):
    """A convolution whose output is used with and without normalisation, so it must stay as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 5, 3, padding=1)
        self.bn = nn.BatchNorm2d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.bn(x) + x


CASES = {
    "attention at full size": Augmented(),
    "attention pooled and upsampled": Augmented(feature_size=(3, 4)),
    "attention alone": Augmented(value_channels=8),
    "no convolution before": Lonely(),
    "convolution used twice": Shared(),
}


def operators(model: bytes) -> collections.Counter:
    return collections.Counter(node.op_type for node in onnx.load_from_string(model).graph.node)


@pytest.mark.parametrize("network", CASES.values(), ids=CASES.keys())
def test_folding_keeps_the_answers_and_leaves_no_normalisation(network: nn.Module) -> None:
    torch.manual_seed(0)
    unlike_fresh(network)
    model = convert(network, torch.zeros(2, 5, 6, 8), {})
    assert operators(model)["BatchNormalization"] == 0
    inputs = torch.randn(3, 5, 6, 8)
    found = onnxruntime.InferenceSession(model).run(None, {"image": inputs.numpy()})[0]
    np.testing.assert_allclose(found, network(inputs).detach().numpy(), atol=2e-5)


def test_behind_a_concatenation_both_branches_absorb_it() -> None:
    assert operators(convert(unlike_fresh(Augmented()), torch.zeros(2, 5, 6, 8), {}))["Conv"] == 3  # conv, qkv, proj


def test_attention_becomes_products_and_a_softmax_without_shapes_at_run_time() -> None:
    found = operators(convert(unlike_fresh(Augmented()), torch.zeros(2, 5, 6, 8), {}))
    assert found["Softmax"] == 1
    assert found["Slice"] == 0


def test_weights_that_are_used_in_parts_are_cut_at_export() -> None:
    network = unlike_fresh(create_model("aa_wide_resnet22_2", num_classes=3, image_size=16))
    found = operators(convert(network, torch.zeros(2, 3, 16, 16), {}))
    assert found["Slice"] == found["Identity"] == 0


def test_no_initializer_is_left_unused(tmp_path: Path) -> None:
    network = unlike_fresh(create_model("aa_wide_resnet10_1", num_classes=3, image_size=16))
    graph = onnx.load_from_string(convert(network, torch.zeros(2, 3, 16, 16), {})).graph
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used
