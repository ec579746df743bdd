"""What tells attention where a pixel is: the constants behind `AttentionAugmentedConv2d(position=...)`.

    relative    relative_index, one_hot_positions    rows of the learned tables; marks on the keys
    sinusoidal  sinusoidal_encoding                  added to the features
    coordconv   coordinates                          concatenated to the features

Sources: Vaswani et al. 2017, section 3.5 (the waves); Parmar et al. 2018 (half of the channels for rows, half for
columns); Liu et al. 2018 (CoordConv). Bello et al. 2019, section 4, compares them.
"""

import torch
from torch import Tensor


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
    # A single pixel is the centre, where linspace would call it the border.
    return torch.linspace(-1, 1, length) if length > 1 else torch.zeros(1)
