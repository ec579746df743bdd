"""The exported graph: no normalisations, nothing computed from shapes, and the answers of the network."""

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from aaserve.export.graph.convert import convert
from aaserve.models import create_model
from aaserve.models.attention import AttentionAugmentedConv2d


def unlike_fresh(network: nn.Module) -> nn.Module:
    """Give every normalisation statistics and weights other than the initial 0 and 1."""
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
    """An augmented convolution and its normalisation, as in the networks."""

    def __init__(self, *, value_channels: int = 4, feature_size: tuple[int, int] = (6, 8)) -> None:
        super().__init__()
        self.conv = AttentionAugmentedConv2d(
            5, 8, 3, key_channels=4, value_channels=value_channels, num_heads=2, feature_size=feature_size
        )
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu()


class FirstInBlock(nn.Module):
    """A normalisation without a convolution before it, as in pre-activation blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(x).relu() + x


class Shared(nn.Module):
    """A convolution whose output is used with and without normalisation, so its weights must not change."""

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
    "no convolution before": FirstInBlock(),
    "convolution used twice": Shared(),
}


def operators(model: bytes) -> collections.Counter:
    return collections.Counter(node.op_type for node in onnx.load_from_string(model).graph.node)


@pytest.mark.parametrize("network", CASES.values(), ids=CASES.keys())
def test_no_batch_normalization_is_left_and_the_answers_are_the_networks(network: nn.Module) -> None:
    torch.manual_seed(0)
    unlike_fresh(network)
    model = convert(network, torch.zeros(2, 5, 6, 8), {})
    assert operators(model)["BatchNormalization"] == 0
    inputs = torch.randn(3, 5, 6, 8)
    found = onnxruntime.InferenceSession(model).run(None, {"image": inputs.numpy()})[0]
    np.testing.assert_allclose(found, network(inputs).detach().numpy(), atol=2e-5)


@pytest.mark.parametrize("feature_size", [(6, 8), (3, 4)], ids=["full size", "pooled and upsampled"])
def test_the_convolutions_of_both_branches_take_over_a_normalisation(feature_size: tuple[int, int]) -> None:
    network = unlike_fresh(Augmented(feature_size=feature_size))
    assert operators(convert(network, torch.zeros(2, 5, 6, 8), {}))["Conv"] == 3  # conv, qkv, proj


def test_attention_becomes_matrix_products_and_a_softmax() -> None:
    found = operators(convert(unlike_fresh(Augmented()), torch.zeros(2, 5, 6, 8), {}))
    assert found["Softmax"] == 1
    assert found["Slice"] == 0


@pytest.fixture(scope="module")
def whole_network() -> bytes:
    network = unlike_fresh(create_model("aa_wide_resnet10_1", num_classes=3, image_size=16))
    return convert(network, torch.zeros(2, 3, 16, 16), {})


def test_slices_of_weights_are_computed_at_export(whole_network: bytes) -> None:
    found = operators(whole_network)
    assert found["Slice"] == found["Identity"] == 0


def test_every_initializer_is_used(whole_network: bytes) -> None:
    graph = onnx.load_from_string(whole_network).graph
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used
