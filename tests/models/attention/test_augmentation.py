"""Augmentation: from the paper's ratios to channels."""

import pytest
from torch import nn

from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.attention.augmentation import Augmentation


def build(out_channels: int, **overrides: object) -> nn.Module:
    return Augmentation(**overrides).conv2d(16, out_channels, 3, feature_size=(4, 6))


@pytest.mark.parametrize(
    ("out_channels", "ratios", "expected"),
    [
        (128, {}, (160, 8)),
        (256, {}, (160, 24)),
        (512, {}, (160, 48)),
        (512, {"kappa": 0.5, "upsilon": 0.5}, (256, 256)),
        (512, {"kappa": 0.75, "upsilon": 0.75}, (384, 384)),
        (100, {"kappa": 0.29, "upsilon": 0.29, "num_heads": 1, "min_key_channels_per_head": 0}, (29, 29)),
        (16, {"kappa": 0.0, "min_key_channels_per_head": 0}, (8, 8)),
    ],
    ids=["stage 2", "stage 3", "stage 4", "half", "three quarters", "not 28.999", "at least one per head"],
)
def test_key_and_value_channels_are_rounded_down_to_multiples_of_the_heads(
    out_channels: int, ratios: dict, expected: tuple[int, int]
) -> None:
    layer = build(out_channels, **ratios)
    assert (layer.key_channels, layer.value_channels) == expected


def test_upsilon_0_gives_an_ordinary_convolution() -> None:
    layer = build(32, upsilon=0)
    assert not isinstance(layer, AttentionAugmentedConv2d)
    assert layer.weight.shape == (32, 16, 3, 3)


def test_upsilon_1_gives_attention_without_a_convolution() -> None:
    assert build(32, upsilon=1).conv is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"kappa": -0.1}, "kappa .* must not be negative, got -0.1"),
        ({"upsilon": 1.5}, r"upsilon .* must be within 0\.\.1, got 1.5"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"min_key_channels_per_head": -1}, "min_key_channels_per_head must not be negative, got -1"),
    ],
    ids=["kappa", "upsilon", "heads", "minimum"],
)
def test_values_out_of_range_are_rejected(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**overrides)
