"""Which convolutions of a network get attention, and how deep it is.

    Augmentation: stages, κ, υ, heads, ... --conv2d--> AttentionAugmentedConv2d

    dk = max(κ F_out, 20 per head)    dv = υ F_out    both rounded down to multiples of the heads

Source: Bello et al. 2019, sections 3 (κ, υ) and 4.1 (the minimum key depth). The paper does not mention rounding:
rounding down gives its parameter counts, rounding up does not (docs/networks.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from aaserve.models.attention.layer import AttentionAugmentedConv2d


@dataclass(frozen=True)
class Augmentation:
    """The attention of a network. The defaults are the paper's for ResNets and Wide-ResNets, with no stage augmented.

    Args:
        augmented_stages: numbers of the stages that use attention; empty for the plain network.
        pooled_stages: the augmented stages whose attention runs at half their resolution.
        kappa: κ, key depth over output channels.
        upsilon: υ, value depth over output channels, 0..1.
        num_heads: Nh.
        min_key_channels_per_head: lower bound of the key depth.
        position: the position encoding, see AttentionAugmentedConv2d.

    Raises:
        ValueError: an argument out of its range.
    """

    augmented_stages: Sequence[int] = ()
    pooled_stages: Sequence[int] = ()
    kappa: float = 0.2
    upsilon: float = 0.1
    num_heads: int = 8
    min_key_channels_per_head: int = 20
    position: str = "relative"

    def __post_init__(self) -> None:
        if self.kappa < 0:
            raise ValueError(f"kappa (key depth over output channels) must not be negative, got {self.kappa}")
        if not 0 <= self.upsilon <= 1:
            raise ValueError(f"upsilon (value depth over output channels) must be within 0..1, got {self.upsilon}")
        if self.num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, got {self.num_heads}")
        if self.min_key_channels_per_head < 0:
            raise ValueError(f"min_key_channels_per_head must not be negative, got {self.min_key_channels_per_head}")

    def check_stages(self, *stages: int) -> None:
        """Raise ValueError unless `augmented_stages` and `pooled_stages` are among `stages`."""
        for name in ("augmented_stages", "pooled_stages"):
            if not set(getattr(self, name)) <= set(stages):
                raise ValueError(
                    f"{name} must be among {', '.join(map(str, stages))}, got {tuple(getattr(self, name))}"
                )

    def check_image_size(self, x: Tensor, image_size: tuple[int, int]) -> None:
        """Raise ValueError if the images (B, C, H, W) are of another size than the attention was built for."""
        if self.augmented_stages and tuple(x.shape[-2:]) != image_size:
            raise ValueError(f"built for images of {image_size}, got {tuple(x.shape[-2:])}")

    def conv2d(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        feature_size: tuple[int, int],
        stride: int = 1,
    ) -> nn.Module:
        """Build the augmented convolution; an ordinary one if υ is 0, attention without convolution if υ is 1.

        Maps (B, in_channels, h, w) to (B, out_channels, ceil(h / stride), ceil(w / stride)), without biases.

        Raises:
            ValueError: an argument that AttentionAugmentedConv2d rejects.
        """
        if self.upsilon == 0:
            return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        least_key_channels = self.min_key_channels_per_head * self.num_heads
        return AttentionAugmentedConv2d(
            in_channels,
            out_channels,
            kernel_size,
            key_channels=max(_multiple(self.kappa * out_channels, self.num_heads), least_key_channels),
            value_channels=_multiple(self.upsilon * out_channels, self.num_heads),
            num_heads=self.num_heads,
            feature_size=feature_size,
            stride=stride,
            position=self.position,
        )


PLAIN = Augmentation()


def _multiple(value: float, factor: int) -> int:
    """`value` rounded down to a multiple of `factor`, but at least `factor`: every head needs a channel."""
    # 0.29 * 100 is 28.999999999999996 but means 29.
    return max(int(round(value, 6)) // factor, 1) * factor
