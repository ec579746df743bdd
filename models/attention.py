"""Attention-augmented convolution: convolution beside 2-D self-attention, concatenated.

    x --conv------------------------------------> (B, out - dv, H', W') --+
    x --pool--> qkv --> attention --> proj --> upsample --> (B, dv, H', W') --+--> (B, out, H', W')

Source: Bello et al. 2019, "Attention Augmented Convolutional Networks", section 3. Knows nothing of any network.

Letters in shape comments: B batch, Nh heads, H and W the attention's own feature size, N = H*W positions,
d key channels per head, e value channels per head.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.position import coordinates, one_hot_positions, relative_index, sinusoidal_encoding

POSITIONS = ("relative", "none", "sinusoidal", "coordconv")


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
        position: how attention learns where things are, the four that the paper's section 4 compares: "relative",
            learned 2-D relative embeddings; "none"; "sinusoidal", the Transformer's encoding in two dimensions added
            to what attention sees; "coordconv", two coordinate channels beside it (`qkv` has `in_channels + 2` inputs).

    Raises:
        ValueError: channels that heads do not divide, an even kernel, an unknown `position`, a size below one.
    """

    _offset_h: Tensor
    _offset_w: Tensor
    _key_marks: Tensor
    _encoding: Tensor

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
        self.position = position

        self.conv = None
        if value_channels < out_channels:
            self.conv = nn.Conv2d(
                in_channels, out_channels - value_channels, kernel_size, stride, kernel_size // 2, bias=False
            )
        seen_channels = in_channels + 2 if position == "coordconv" else in_channels
        self.qkv = nn.Conv2d(seen_channels, 2 * key_channels + value_channels, 1, bias=False)
        self.proj = nn.Conv2d(value_channels, value_channels, 1, bias=False)
        height, width = feature_size
        if position == "relative":
            key_channels_per_head = key_channels // num_heads
            # The paper's listing passes d^-0.5 as the first argument of TensorFlow's initialiser, which is the mean;
            # the standard deviation is surely what was meant (titu1994, timm and lucidrains read it so).
            std = key_channels_per_head**-0.5
            self.key_rel_h = nn.Parameter(torch.randn(2 * height - 1, key_channels_per_head) * std)
            self.key_rel_w = nn.Parameter(torch.randn(2 * width - 1, key_channels_per_head) * std)
            self.register_buffer("_offset_h", relative_index(height), persistent=False)
            self.register_buffer("_offset_w", relative_index(width), persistent=False)
            marks = F.pad(one_hot_positions(height, width), (key_channels_per_head, 0)).T  # (d + H + W, N)
            self.register_buffer("_key_marks", marks, persistent=False)
        elif position == "sinusoidal":
            self.register_buffer("_encoding", sinusoidal_encoding(in_channels, height, width), persistent=False)
        elif position == "coordconv":
            beside = F.pad(coordinates(height, width), (0, 0, 0, 0, in_channels, 0))  # (in + 2, H, W)
            self.register_buffer("_encoding", beside, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, ceil(h / stride), ceil(w / stride)).

        Raises:
            ValueError: halving the input never gives the feature size that the layer was built for.
        """
        output_size = tuple((size - 1) // self.stride + 1 for size in x.shape[-2:])
        attention = self._attend(self._pool(x))  # (B, dv, H, W)
        if attention.shape[-2:] != output_size:
            attention = F.interpolate(attention, output_size, mode="bilinear", align_corners=False)  # (B, dv, H', W')
        if self.conv is None:
            return attention
        return torch.cat([self.conv(x), attention], dim=1)  # (B, out, H', W')

    def _pool(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[-2:])
        while x.shape[-2] > self.feature_size[0] or x.shape[-1] > self.feature_size[1]:
            x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)  # (B, in, ceil(h / 2), ceil(w / 2))
        if tuple(x.shape[-2:]) != self.feature_size:
            raise ValueError(f"built for feature size {self.feature_size}, which halving {size} does not reach")
        return x

    def attention_map(self, x: Tensor) -> Tensor:
        """Where each position looks, given the layer's input: (B, Nh, N, N), queries by keys, each row sums to 1.

        Positions are counted row by row over `feature_size`. For looking at; `forward` never holds all of it.
        """
        q, k, _ = self._queries_keys_values(self._pool(x))
        return (q @ k).softmax(dim=-1)

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self._queries_keys_values(x)
        heads = _attention(q, k.transpose(2, 3), v)  # (B, Nh, N, e)
        return self.proj(heads.transpose(2, 3).reshape(-1, self.value_channels, *self.feature_size))  # (B, dv, H, W)

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) to what attention multiplies, (B, Nh, N, D), (B, Nh, D, N), (B, Nh, N, e); position included."""
        if self.position == "sinusoidal":
            x = x + self._encoding
        elif self.position == "coordconv":
            x = F.pad(x, (0, 0, 0, 0, 0, 2)) + self._encoding  # (B, in + 2, H, W)
        q, k, v = self._queries(x), *self._keys_and_values(x)  # (B, Nh, N, d), (B, Nh, d, N), (B, Nh, N, e)
        if self.position == "relative":
            # Augmented key: q.(k + r_h + r_w) is one dot product once the relative logits of each query stand beside
            # it and each key carries one-hot marks of its row and column. No N x N bias ever exists. Marks are added to
            # zeros, not concatenated: ONNX would first look up the number of rows, on the host, and a GPU wait for it.
            q = torch.cat([q, *self._relative_logits(q)], dim=-1)  # (B, Nh, N, d + H + W)
            k = F.pad(k, (0, 0, 0, q.shape[-1] - k.shape[2])) + self._key_marks  # (B, Nh, d + H + W, N)
        return q, k, v

    # Queries come out with their channels in rows, keys with their positions in rows, because the product of the two
    # wants them so: transposing them afterwards takes ONNX Runtime longer than the product itself
    # (benchmarks/attention.py compares). Hence two uses of `qkv.weight`.

    def _queries(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to scaled queries (B, Nh, N, d); heads are contiguous blocks of channels."""
        depth = self.key_channels // self.num_heads
        weight = self.qkv.weight[: self.key_channels].flatten(1).T * depth**-0.5  # (C, dk)
        q = x.flatten(2).transpose(1, 2) @ weight  # (B, N, dk)
        return q.unflatten(2, (self.num_heads, depth)).transpose(1, 2)  # (B, Nh, N, d)

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) to keys (B, Nh, d, N) and values (B, Nh, N, e)."""
        kv = F.conv2d(x, self.qkv.weight[self.key_channels :]).flatten(2)  # (B, dk + dv, N)
        k, v = kv.split([self.key_channels, self.value_channels], dim=1)
        k, v = (part.unflatten(1, (self.num_heads, -1)) for part in (k, v))  # (B, Nh, d | e, N)
        return k, v.transpose(2, 3)

    def _relative_logits(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of each query against each key row (B, Nh, N, H) and each key column (B, Nh, N, W)."""
        height, width = self.feature_size
        q = q.reshape(-1, self.num_heads, height, width, q.shape[-1])  # (B, Nh, H, W, d)
        rel_h = self.key_rel_h[self._offset_h].transpose(1, 2)  # (H, d, H)
        rel_w = self.key_rel_w[self._offset_w].transpose(1, 2)  # (W, d, W)
        logits_h = q @ rel_h  # (B, Nh, H, W, H)
        logits_w = (q.transpose(2, 3) @ rel_w).transpose(2, 3)  # (B, Nh, H, W, W)
        return logits_h.flatten(2, 3), logits_w.flatten(2, 3)


def attention_maps(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The `attention_map` of each layer while the network maps `x`, by the layers' names, in the order they run."""
    maps: dict[str, Tensor] = {}

    def note(name: str, layer: AttentionAugmentedConv2d, inputs: tuple[Tensor]) -> None:
        maps[name] = layer.attention_map(*inputs)

    layers = [(name, one) for name, one in network.named_modules() if isinstance(one, AttentionAugmentedConv2d)]
    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def attention_layers(network: nn.Module, x: Tensor) -> dict[str, AttentionAugmentedConv2d]:
    """The attention layers by name, in the order they run while the network maps `x`."""
    return {name: network.get_submodule(name) for name in attention_maps(network, x)}


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of (B, Nh, N, D), (B, Nh, N, D), (B, Nh, N, e), unscaled; (B, Nh, N, e).

    PyTorch's fast kernels, which never hold N x N logits, want rows that are contiguous and values as deep as keys, so
    zeros fill up shallower ones; export takes the zeros out again (export/unpad.py).
    """
    depth = v.shape[-1]
    v = F.pad(v, (0, max(q.shape[-1] - depth, 0)))  # (B, Nh, N, D)
    return F.scaled_dot_product_attention(q, k.contiguous(), v.contiguous(), scale=1.0)[..., :depth]
