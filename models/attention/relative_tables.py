"""Resize relative tables, so that a checkpoint loads into a network built for another image size.

    offset   -(L-1) ........ 0 ........ L-1          table of the checkpoint, 2L - 1 rows
    becomes  -(M-1) .... 0 .... M-1                  table of the network, 2M - 1 rows

The ends and the centre (offset 0) keep their embeddings; rows in between are interpolated linearly. Logits of rows and
columns add up, so this is bilinear interpolation over 2-D offsets.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def resize_relative_tables(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a state dict, with each `key_rel_h` and `key_rel_w` resized to the length that `network` has.

    Everything else is passed through, including names that `network` does not have: `load_state_dict` reports them.

    Raises:
        ValueError: a table is not (2L - 1, depth), or its depth is not the network's.
    """
    wanted = network.state_dict()
    resized = dict(weights)
    for name, table in weights.items():
        if name.rpartition(".")[2] not in ("key_rel_h", "key_rel_w") or name not in wanted:
            continue
        length, depth = wanted[name].shape
        if table.ndim != 2 or table.shape[0] % 2 == 0 or table.shape[1] != depth:
            raise ValueError(f"{name} must be (an odd number, {depth}), got {tuple(table.shape)}")
        resized[name] = _resize(table, length)
    return resized


def _resize(table: Tensor, length: int) -> Tensor:
    """(2L - 1, d) to (length, d)."""
    if table.shape[0] == length:
        return table
    centre, new_centre = table.shape[0] // 2, length // 2
    offset = torch.arange(length, device=table.device) - new_centre
    # Clamped, since rounding can put an end slightly outside the table.
    row = (centre + offset * (centre / max(new_centre, 1))).clamp(0, 2 * centre)  # (length,)
    below = row.floor().long()
    above = (below + 1).clamp(max=2 * centre)
    fraction = (row - below)[:, None].to(table.dtype)  # (length, 1)
    return torch.lerp(table[below], table[above], fraction)  # (length, d)
