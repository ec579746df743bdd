"""The augmented convolution: shapes, checkpoint keys, independence of images in a batch, rejected arguments."""

import pytest
import torch
from torch import Tensor

from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.attention.position import POSITIONS


def layer(**overrides: object) -> AttentionAugmentedConv2d:
    """A small layer with two heads; `overrides` replace its arguments."""
    torch.manual_seed(0)
    arguments = {
        "in_channels": 8,
        "out_channels": 12,
        "kernel_size": 3,
        "key_channels": 8,
        "value_channels": 4,
        "num_heads": 2,
        "feature_size": (4, 6),
    }
    return AttentionAugmentedConv2d(**(arguments | overrides))


def images(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 8, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(
    ("size", "stride", "expected"),
    [((4, 6), 1, (4, 6)), ((8, 12), 2, (4, 6)), ((7, 11), 2, (4, 6)), ((8, 11), 1, (8, 11)), ((15, 23), 2, (8, 12))],
    ids=["as it is", "stride", "odd stride", "pooled", "pooled with stride"],
)
def test_the_output_has_the_size_of_the_convolutions_output(
    position: str, size: tuple[int, int], stride: int, expected: tuple[int, int]
) -> None:
    assert layer(position=position, stride=stride)(images(*size, count=2)).shape == (2, 12, *expected)


def test_the_state_dict_has_the_documented_names_and_shapes() -> None:
    assert {name: tuple(tensor.shape) for name, tensor in layer().state_dict().items()} == {
        "conv.weight": (8, 8, 3, 3),
        "qkv.weight": (2 * 8 + 4, 8, 1, 1),
        "proj.weight": (4, 4, 1, 1),
        "key_rel_h": (7, 4),
        "key_rel_w": (11, 4),
    }


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"position": "none"}, {"conv.weight", "qkv.weight", "proj.weight"}),
        ({"position": "sinusoidal"}, {"conv.weight", "qkv.weight", "proj.weight"}),
        ({"position": "coordconv"}, {"conv.weight", "qkv.weight", "proj.weight"}),
        ({"value_channels": 12}, {"qkv.weight", "proj.weight", "key_rel_h", "key_rel_w"}),
    ],
    ids=["none", "sinusoidal", "coordconv", "fully attentional"],
)
def test_the_state_dict_of_each_variant_has_only_the_weights_it_needs(overrides: dict, expected: set[str]) -> None:
    assert set(layer(**overrides).state_dict()) == expected


def test_coordconv_gives_the_projection_two_more_inputs() -> None:
    assert layer(position="coordconv").qkv.weight.shape == (20, 10, 1, 1)


def test_convolution_channels_come_first_and_attention_channels_last() -> None:
    network, x = layer(), images(4, 6)
    output = network(x)
    torch.testing.assert_close(output[:, :8], network.conv(x))
    torch.nn.init.zeros_(network.proj.weight)
    assert torch.equal(network(x)[:, 8:], torch.zeros(1, 4, 4, 6))


@pytest.mark.parametrize("position", POSITIONS)
def test_two_forward_passes_are_bit_equal(position: str) -> None:
    network, x = layer(position=position).eval(), images(8, 12)
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("position", POSITIONS)
def test_images_of_a_batch_do_not_see_each_other(position: str) -> None:
    network, x = layer(position=position), images(4, 6, count=3)
    alone = torch.cat([network(image[None]) for image in x])
    torch.testing.assert_close(network(x), alone, atol=1e-6, rtol=1e-5)


def test_attention_without_a_position_encoding_moves_with_a_shifted_input() -> None:
    network, x = layer(position="none", value_channels=12), images(4, 6)
    shuffled = x.roll((1, 2), dims=(2, 3))
    torch.testing.assert_close(network(shuffled), network(x).roll((1, 2), dims=(2, 3)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("position", ["relative", "sinusoidal", "coordconv"])
def test_attention_with_a_position_encoding_notices_a_shifted_input(position: str) -> None:
    network, x = layer(position=position, value_channels=12), images(4, 6)
    shuffled = x.roll((1, 2), dims=(2, 3))
    assert (network(shuffled) - network(x).roll((1, 2), dims=(2, 3))).abs().max() > 1e-3


def test_relative_attention_moves_with_its_input_away_from_the_borders() -> None:
    network = layer(feature_size=(12, 14))
    # Limits attention to two pixels around each query, so that borders have no influence inside: input channel 0 is
    # 1 everywhere and becomes each head's first query channel, which the tables turn into a logit of about -10^4.
    with torch.no_grad():
        queries = network.qkv.weight[:8].view(2, 4, 8)
        queries[:, 0] = torch.eye(8)[0]
        for table in (network.key_rel_h, network.key_rel_w):
            distance = (torch.arange(len(table)) - len(table) // 2).abs()
            table[:, 0] = torch.where(distance > 2, -2e4, 0.0)
    x = images(12, 14)
    x[:, 0] = 1
    still, moved = network(x), network(x.roll((2, 3), dims=(2, 3)))
    torch.testing.assert_close(moved[:, :, 4:10, 5:12], still[:, :, 2:8, 2:9], atol=1e-5, rtol=1e-5)
    assert still[:, 8:, 2:8, 2:9].std() > 0.1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"key_channels": 7}, "multiples of num_heads.*got key_channels 7, value_channels 4, num_heads 2"),
        ({"value_channels": 3}, "multiples of num_heads.*got key_channels 8, value_channels 3, num_heads 2"),
        ({"num_heads": 0}, "at least 1.*num_heads 0"),
        ({"key_channels": 0}, "at least 1.*key_channels 0"),
        ({"value_channels": 0}, r"value_channels must be 1\.\.12 \(out_channels\), got 0"),
        ({"value_channels": 14}, r"value_channels must be 1\.\.12 \(out_channels\), got 14"),
        ({"kernel_size": 2}, "kernel_size must be odd, got 2"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"feature_size": (0, 4)}, r"feature_size must be \(H, W\), both at least 1, got \(0, 4\)"),
        ({"position": "absolute"}, "position must be one of relative, none, sinusoidal, coordconv, got 'absolute'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_rejected_with_the_expected_and_the_given_value(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(**overrides)


@pytest.mark.parametrize("size", [(3, 6), (9, 13), (8, 24)])
def test_an_input_that_halving_does_not_bring_to_the_feature_size_is_rejected(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"built for feature size \(4, 6\), which halving"):
        layer()(images(*size))
