"""The paper's ratios --> channels --> AttentionAugmentedConv2d.

    dk = max(κ F_out, 20 per head)    dv = υ F_out    both rounded down to multiples of the heads

Source: Bello et al. 2019, sections 3 (κ, υ) and 4.1 (the minimum key depth). Rounding is not in the paper: down
gives its parameter counts, up does not (docs/networks.md).
"""

from torch import nn

from models.attention import AttentionAugmentedConv2d


def augmented_conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    kappa: float,
    upsilon: float,
    num_heads: int,
    min_key_channels_per_head: int,
    feature_size: tuple[int, int],
    stride: int = 1,
    position: str = "relative",
) -> nn.Module:
    """Build the augmented convolution for κ and υ; an ordinary one where υ is 0, attention alone where it is 1.

    Maps (B, in_channels, h, w) to (B, out_channels, ceil(h / stride), ceil(w / stride)), without biases.

    Args:
        kappa: κ, key depth over output channels.
        upsilon: υ, value depth over output channels, 0..1.
        min_key_channels_per_head: floor of the key depth.

    Raises:
        ValueError: ratios out of range, or what AttentionAugmentedConv2d refuses.
    """
    if kappa < 0:
        raise ValueError(f"kappa (key depth over output channels) must not be negative, got {kappa}")
    if not 0 <= upsilon <= 1:
        raise ValueError(f"upsilon (value depth over output channels) must be within 0..1, got {upsilon}")
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, got {num_heads}")
    if min_key_channels_per_head < 0:
        raise ValueError(f"min_key_channels_per_head must not be negative, got {min_key_channels_per_head}")
    if upsilon == 0:
        return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return AttentionAugmentedConv2d(
        in_channels,
        out_channels,
        kernel_size,
        key_channels=max(_multiple(kappa * out_channels, num_heads), min_key_channels_per_head * num_heads),
        value_channels=_multiple(upsilon * out_channels, num_heads),
        num_heads=num_heads,
        feature_size=feature_size,
        stride=stride,
        position=position,
    )


def _multiple(value: float, of: int) -> int:
    """`value` rounded down to a multiple of `of`, at least one of them, since a head without channels is none."""
    # 0.29 * 100 is 28.999999999999996, which is meant to be 29.
    return max(int(round(value, 6)) // of, 1) * of
