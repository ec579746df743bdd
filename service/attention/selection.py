"""Which attention is asked for: layers, heads, and whose.

    ?layer=&head=&position= + manifest --checked_selection--> AttentionSelection
    AttentionSelection.select(layer, maps) --> shares (heads, rows, columns)

Knows nothing of HTTP.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.manifest import Manifest
from aaserve.bundle.sections import AttentionMap
from aaserve.service.errors import InvalidParameter, NoAttention

Head = int | Literal["mean"]
MEAN: Literal["mean"] = "mean"
_NUMBER = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_POSITION = re.compile(f"{_NUMBER},{_NUMBER}")


@dataclass(frozen=True, slots=True)
class AttentionSelection:
    """Parts of the attention maps of one picture.

    Args:
        head: its number, MEAN over all, or None for each by itself.
        position: whose attention, as (x, y) in 0..1 from the top left corner of what the model sees; None for the
            average over all positions.
    """

    layers: tuple[AttentionMap, ...]
    head: Head | None
    position: tuple[float, float] | None

    def heads(self, layer: AttentionMap) -> list[Head]:
        """What the heads of a selection are called."""
        return list(range(layer.num_heads)) if self.head is None else [self.head]

    def query(self, layer: AttentionMap) -> tuple[int, int] | None:
        """Row and column of the position in the grid of a layer."""
        if self.position is None:
            return None
        (x, y), (rows, columns) = self.position, layer.grid
        return min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)

    def select(self, layer: AttentionMap, maps: NDArray[np.floating]) -> NDArray[np.float32]:
        """Shares (heads, rows, columns) from the maps (heads, queries, keys) of a layer; each head's sum to 1."""
        query = self.query(layer)
        if query is None:
            looked = np.asarray(self.of_heads(maps).mean(axis=1))
        else:
            looked = self.of_heads(maps[:, query[0] * layer.grid[1] + query[1]])
        return looked.reshape(len(looked), *layer.grid)

    def of_heads(self, maps: NDArray[np.floating]) -> NDArray[np.float32]:
        """The heads that are asked for, of values (heads, …)."""
        if isinstance(self.head, int):
            maps = maps[self.head : self.head + 1]
        chosen: NDArray[np.float32] = maps.astype(np.float32)
        return np.asarray(chosen.mean(axis=0, keepdims=True)) if self.head == MEAN else chosen


def checked_selection(
    manifest: Manifest, *, layer: str | None, head: str | None, position: str | None
) -> AttentionSelection:
    """What a request asks for; all layers, each head and the average where it does not say.

    Raises:
        NoAttention: the bundle has no attention maps.
        InvalidParameter: it has others.
    """
    if not manifest.attention:
        raise NoAttention(f"{manifest.name} version {manifest.version} was exported without attention maps")
    layers = tuple(one for one in manifest.attention if layer in (None, one.layer))
    if not layers:
        raise InvalidParameter(f"layer must be one of {', '.join(one.layer for one in manifest.attention)}")
    return AttentionSelection(
        layers, _checked_head(head, min(one.num_heads for one in layers)), _checked_position(position)
    )


def _checked_head(head: str | None, num_heads: int) -> Head | None:
    if head is None:
        return None
    if head == MEAN:
        return MEAN
    if not re.fullmatch("[0-9]{1,6}", head) or int(head) >= num_heads:
        raise InvalidParameter(f"head must be {MEAN} or 0 to {num_heads - 1}")
    return int(head)


def _checked_position(position: str | None) -> tuple[float, float] | None:
    if position is None:
        return None
    found = _POSITION.fullmatch(position)
    if found is None or max(float(found[1]), float(found[2])) > 1:
        raise InvalidParameter("position must be x,y as fractions of the picture, such as 0.5,0.25")
    return float(found[1]), float(found[2])
