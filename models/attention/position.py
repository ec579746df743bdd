"""Position encodings: how self-attention knows where a pixel is.

    NoPosition           nothing: attention treats a feature map as a set of pixels
    SinusoidalPosition   the Transformer's waves in two dimensions, added to the features
    CoordConv            two coordinate channels, concatenated to the features
    RelativePosition     learned embeddings of the offset from query to key, added to the logits

An attention layer calls `encode` on the features it sees, and `augment` on the queries and keys it makes from them.

Sources: Bello et al. 2019, section 4 (compares the four); Vaswani et al. 2017, section 3.5 (the waves); Parmar et al.
2018 (half of the channels for rows, half for columns); Liu et al. 2018 (CoordConv).

Letters in shape comments: B batch, C channels, Nh heads, H and W the size of the feature map, N = H*W positions,
d key channels per head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Tables = tuple[nn.Parameter, nn.Parameter] | tuple[None, None]


class NoPosition(nn.Module):
    """No encoding. The other encodings inherit from it and override what they need.

    Args:
        channels: C of the features.
        key_channels_per_head: d of the queries and keys.
        feature_size: (H, W) of the features.
    """

    added_channels = 0  # how many more channels `encode` returns than it gets

    def __init__(self, channels: int, key_channels_per_head: int, feature_size: tuple[int, int]) -> None:
        super().__init__()

    def tables(self) -> Tables:
        """Draw fresh relative embeddings (2H - 1, d) and (2W - 1, d), for encodings that learn them.

        The layer owns them, as `key_rel_h` and `key_rel_w`, because checkpoints have these names without `position.`.
        """
        return None, None

    def encode(self, x: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, C + added_channels, H, W)."""
        return x

    def augment(
        self, q: Tensor, k: Tensor, key_rel_h: Tensor | None, key_rel_w: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Map queries (B, Nh, N, d) and keys (B, Nh, d, N) to deeper ones whose product includes position."""
        return q, k


class SinusoidalPosition(NoPosition):
    """Add `sinusoidal_encoding` to the features.

    Raises:
        ValueError: channels is not a positive multiple of 4.
    """

    _encoding: Tensor

    def __init__(self, channels: int, key_channels_per_head: int, feature_size: tuple[int, int]) -> None:
        super().__init__(channels, key_channels_per_head, feature_size)
        self.register_buffer("_encoding", sinusoidal_encoding(channels, *feature_size), persistent=False)  # (C, H, W)

    def encode(self, x: Tensor) -> Tensor:
        return x + self._encoding


class CoordConv(NoPosition):
    """Concatenate the `coordinates` of each pixel to its features."""

    added_channels = 2
    _coordinates: Tensor

    def __init__(self, channels: int, key_channels_per_head: int, feature_size: tuple[int, int]) -> None:
        super().__init__(channels, key_channels_per_head, feature_size)
        beside = F.pad(coordinates(*feature_size), (0, 0, 0, 0, channels, 0))  # (C + 2, H, W)
        self.register_buffer("_coordinates", beside, persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        # Added to zeros, see RelativePosition.augment.
        return F.pad(x, (0, 0, 0, 0, 0, 2)) + self._coordinates


class RelativePosition(NoPosition):
    """Add to each logit the query's product with the embeddings of the key's row offset and column offset."""

    _offset_h: Tensor
    _offset_w: Tensor
    _key_marks: Tensor

    def __init__(self, channels: int, key_channels_per_head: int, feature_size: tuple[int, int]) -> None:
        super().__init__(channels, key_channels_per_head, feature_size)
        self.key_channels_per_head = key_channels_per_head
        self.feature_size = height, width = feature_size
        self.register_buffer("_offset_h", relative_index(height), persistent=False)
        self.register_buffer("_offset_w", relative_index(width), persistent=False)
        marks = F.pad(one_hot_positions(height, width), (key_channels_per_head, 0)).T  # (d + H + W, N)
        self.register_buffer("_key_marks", marks, persistent=False)

    def tables(self) -> Tables:
        # The paper's listing passes d^-0.5 as the first argument of TensorFlow's initialiser, which is the mean. It
        # must mean the standard deviation; titu1994, timm and lucidrains read it like that too.
        std = self.key_channels_per_head**-0.5
        height, width = self.feature_size
        return (
            nn.Parameter(torch.randn(2 * height - 1, self.key_channels_per_head) * std),
            nn.Parameter(torch.randn(2 * width - 1, self.key_channels_per_head) * std),
        )

    def augment(
        self, q: Tensor, k: Tensor, key_rel_h: Tensor | None, key_rel_w: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Append relative logits to each query and one-hot marks of row and column to each key, both H + W deeper.

        One product of the two then computes q.(k + r_h + r_w), and the (N, N) matrix of relative logits is never built.
        """
        q = torch.cat([q, *self.relative_logits(q, key_rel_h, key_rel_w)], dim=-1)  # (B, Nh, N, d + H + W)
        # Marks are added to zeros instead of concatenated. Concatenation would make the ONNX graph look up the batch
        # size on the host to copy the marks for each row, and a GPU would wait for that.
        k = F.pad(k, (0, 0, 0, q.shape[-1] - k.shape[2])) + self._key_marks  # (B, Nh, d + H + W, N)
        return q, k

    def relative_logits(self, q: Tensor, key_rel_h: Tensor, key_rel_w: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of each query (B, Nh, N, d) for each key row (B, Nh, N, H) and each key column (B, Nh, N, W)."""
        q = q.unflatten(2, self.feature_size)  # (B, Nh, H, W, d)
        rel_h = key_rel_h[self._offset_h].transpose(1, 2)  # (H, d, H)
        rel_w = key_rel_w[self._offset_w].transpose(1, 2)  # (W, d, W)
        logits_h = q @ rel_h  # (B, Nh, H, W, H)
        logits_w = (q.transpose(2, 3) @ rel_w).transpose(2, 3)  # (B, Nh, H, W, W)
        return logits_h.flatten(2, 3), logits_w.flatten(2, 3)


POSITIONS = {
    "relative": RelativePosition,
    "none": NoPosition,
    "sinusoidal": SinusoidalPosition,
    "coordconv": CoordConv,
}


def relative_index(length: int) -> Tensor:
    """(length, length) rows of a relative table: [i, j] = j - i + length - 1, so row 0 is the most negative offset."""
    index = torch.arange(length)
    return index[None, :] - index[:, None] + length - 1


def one_hot_positions(height: int, width: int) -> Tensor:
    """(height * width, height + width): each position's row as one-hot, then its column."""
    rows = torch.eye(height).repeat_interleave(width, dim=0)  # (HW, H)
    columns = torch.eye(width).repeat(height, 1)  # (HW, W)
    return torch.cat([rows, columns], dim=1)  # (HW, H + W)


def sinusoidal_encoding(channels: int, height: int, width: int) -> Tensor:
    """Encode rows in the first half of the channels and columns in the second: (channels, height, width), in -1..1.

    Within a half of C channels, channel 2i is sin(p / 10000^(2i / C)) and channel 2i + 1 the cosine, p counted in
    pixels of this feature map.

    Raises:
        ValueError: channels is not a positive multiple of 4 (two axes, sine and cosine).
    """
    if channels < 4 or channels % 4:
        raise ValueError(f"a sinusoidal encoding needs channels in multiples of 4, got {channels}")
    rows = _waves(height, channels // 2)[:, :, None].expand(-1, -1, width)  # (C / 2, H, W)
    columns = _waves(width, channels // 2)[:, None, :].expand(-1, height, -1)  # (C / 2, H, W)
    return torch.cat([rows, columns])  # (C, H, W)


def coordinates(height: int, width: int) -> Tensor:
    """Channel 0 the row, channel 1 the column, each from -1 (top, left) to 1 (bottom, right): (2, height, width)."""
    rows = _from_minus_one_to_one(height)[:, None].expand(-1, width)  # (H, W)
    columns = _from_minus_one_to_one(width)[None, :].expand(height, -1)  # (H, W)
    return torch.stack([rows, columns])  # (2, H, W)


def _waves(length: int, channels: int) -> Tensor:
    frequency = 10000.0 ** (-torch.arange(0, channels, 2) / channels)  # (C / 2,)
    angle = frequency[:, None] * torch.arange(length)  # (C / 2, L)
    return torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1)  # (C, L)


def _from_minus_one_to_one(length: int) -> Tensor:
    # linspace(-1, 1, 1) is -1, the border; a single pixel is at the centre.
    return torch.linspace(-1, 1, length) if length > 1 else torch.zeros(1)
