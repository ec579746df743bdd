"""Attention-augmented convolution: a convolution beside 2-D self-attention, concatenated.

    x --conv------------------------------------------------------> (B, out - dv, H', W') --+
    x --pool--> position --> qkv --> attention --> proj --> upsample --> (B, dv, H', W') --+--> (B, out, H', W')

Source: Bello et al. 2019, "Attention Augmented Convolutional Networks", section 3. Knows no network.

Letters in shape comments: B batch, C channels that attention sees, Nh heads, H and W the attention's own feature size,
N = H*W positions, d key channels per head, e value channels per head, D depth of queries and keys with position.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aaserve.models.attention.position import POSITIONS


class AttentionAugmentedConv2d(nn.Module):
    """Convolution whose last `value_channels` output channels come from multi-head self-attention (section 3).

    Maps (B, in_channels, h, w) to (B, out_channels, ceil(h / stride), ceil(w / stride)), without biases.
    With `value_channels == out_channels` there is no convolution at all (the paper's fully attentional layer).

    Args:
        kernel_size: odd; the convolution pads by `kernel_size // 2`.
        key_channels: dk, over all heads; also the queries' depth.
        value_channels: dv, over all heads.
        feature_size: (H, W) the attention runs at. A larger input is average-pooled (3x3, stride 2) until it has
            this size; the result is upsampled bilinearly to the convolution's output. Fixes the input size.
        position: the position encoding: "relative", "none", "sinusoidal" or "coordconv" (models/attention/position.py).

    Raises:
        ValueError: channels that heads do not divide, an even kernel, an unknown `position`, a size below one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        key_channels: int,
        value_channels: int,
        num_heads: int,
        feature_size: tuple[int, int],
        stride: int = 1,
        position: str = "relative",
    ) -> None:
        super().__init__()
        if num_heads < 1 or key_channels < 1 or key_channels % num_heads or value_channels % num_heads:
            raise ValueError(
                "key_channels and value_channels must be multiples of num_heads, all at least 1, "
                f"got key_channels {key_channels}, value_channels {value_channels}, num_heads {num_heads}"
            )
        if not 0 < value_channels <= out_channels:
            raise ValueError(f"value_channels must be 1..{out_channels} (out_channels), got {value_channels}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        if len(feature_size) != 2 or min(feature_size) < 1:
            raise ValueError(f"feature_size must be (H, W), both at least 1, got {feature_size}")
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, got {position!r}")
        self.key_channels = key_channels
        self.value_channels = value_channels
        self.num_heads = num_heads
        self.feature_size = feature_size
        self.stride = stride

        self.conv = None
        if value_channels < out_channels:
            self.conv = nn.Conv2d(
                in_channels, out_channels - value_channels, kernel_size, stride, kernel_size // 2, bias=False
            )
        self.position = POSITIONS[position](in_channels, key_channels // num_heads, feature_size)
        seen_channels = in_channels + self.position.added_channels
        self.qkv = nn.Conv2d(seen_channels, 2 * key_channels + value_channels, 1, bias=False)
        self.proj = nn.Conv2d(value_channels, value_channels, 1, bias=False)
        self.key_rel_h, self.key_rel_w = self.position.tables()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, ceil(h / stride), ceil(w / stride)).

        Raises:
            ValueError: halving the input never gives the feature size that the layer was built for.
        """
        height, width = ((size - 1) // self.stride + 1 for size in x.shape[-2:])
        attention = _upsample(self._attend(self._pool(x)), height, width)  # (B, dv, H', W')
        if self.conv is None:
            return attention
        return torch.cat([self.conv(x), attention], dim=1)  # (B, out, H', W')

    def attention_map(self, x: Tensor) -> Tensor:
        """How much each position attends to each, for the layer's input `x`: (B, Nh, N, N), queries by keys.

        Each row sums to 1. Positions are counted row by row over `feature_size`. For inspection: in PyTorch `forward`
        does not hold the whole map, except in bf16 on CPUs.
        """
        q, k, _ = self._heads(self._pool(x))
        return (q @ k).softmax(dim=-1)

    def _pool(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[-2:])
        while x.shape[-2] > self.feature_size[0] or x.shape[-1] > self.feature_size[1]:
            x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)  # (B, in, ceil(h / 2), ceil(w / 2))
        if tuple(x.shape[-2:]) != self.feature_size:
            raise ValueError(f"built for feature size {self.feature_size}, which halving {size} does not reach")
        return x

    def _attend(self, x: Tensor) -> Tensor:
        """The attention branch at its own feature size, (B, in, H, W) to (B, dv, H, W)."""
        q, k, v = self._heads(x)
        heads = attend(q, k, v)  # (B, Nh, N, e)
        return self.proj(heads.transpose(2, 3).reshape(-1, self.value_channels, *self.feature_size))  # (B, dv, H, W)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, in, H, W) to queries (B, Nh, N, D), keys (B, Nh, D, N) and values (B, Nh, N, e), position included."""
        q, k, v = self._project(self.position.encode(x))
        q, k = self.position.augment(q, k, self.key_rel_h, self.key_rel_w)
        return q, k, v

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) to scaled queries (B, Nh, N, d), keys (B, Nh, d, N) and values (B, Nh, N, e).

        This is `self.qkv(x).split(...)`, in two products: one gives the queries with a row for each position, the
        other the keys with a row for each channel, as the product of queries and keys takes them. ONNX Runtime needs
        longer to transpose them afterwards than for that product (docs/networks.md). Each head is a contiguous block
        of channels.
        """
        weight_q, weight_kv = self.qkv.weight[: self.key_channels], self.qkv.weight[self.key_channels :]
        scale = (self.key_channels // self.num_heads) ** -0.5
        q = x.flatten(2).transpose(1, 2) @ (weight_q.flatten(1).T * scale)  # (B, N, dk)
        q = q.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, Nh, N, d)
        kv = F.conv2d(x, weight_kv).flatten(2)  # (B, dk + dv, N)
        k, v = kv.split([self.key_channels, self.value_channels], dim=1)
        k = k.unflatten(1, (self.num_heads, -1))  # (B, Nh, d, N)
        v = v.unflatten(1, (self.num_heads, -1)).transpose(2, 3)  # (B, Nh, N, e)
        return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k) v for q (B, Nh, N, D), k (B, Nh, D, N) and v (B, Nh, N, e): (B, Nh, N, e)."""
    # The formula itself, because ONNX has no such kernel, and CPUs no fast one for bf16.
    if torch.compiler.is_exporting() or (q.device.type == "cpu" and q.dtype == torch.bfloat16):
        return (q @ k).softmax(dim=-1) @ v
    # PyTorch's fast kernels never hold the N x N logits. They need contiguous rows, and values as deep as the keys, so
    # the values are padded with zeros.
    depth = v.shape[-1]
    v = F.pad(v, (0, max(q.shape[-1] - depth, 0)))  # (B, Nh, N, D)
    return F.scaled_dot_product_attention(q, k.transpose(2, 3).contiguous(), v.contiguous(), scale=1.0)[..., :depth]


def _upsample(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, (B, dv, H, W) to (B, dv, height, width)."""
    if x.shape[-2:] == (height, width):
        return x
    if height % x.shape[-2] == width % x.shape[-1] == 0:
        # In ONNX these scales are constants. A size would be computed from the batch size, on the host, and a GPU would
        # wait for it.
        scales = (height / x.shape[-2], width / x.shape[-1])
        return F.interpolate(x, scale_factor=scales, mode="bilinear", align_corners=False)
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
