"""Summarise an attention map in a few numbers, enough to notice a different one."""

import numpy as np
from numpy.typing import NDArray

_GOLDEN_RATIO = (5**0.5 - 1) / 2  # the fractional parts of its multiples are spread evenly over 0..1 and never repeat


def gaze(maps: NDArray[np.floating], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Where each head of `maps` (heads, queries, keys) looks on average: (heads, 2), row and column in 0..1.

    Queries have different weights, neighbours the most different ones, so that rows in another order have another gaze.
    """
    height, width = grid
    rows, columns = np.divmod(np.arange(height * width), width)
    centres = np.stack([(rows + 0.5) / height, (columns + 0.5) / width], axis=1)  # (N, 2)
    weights = np.arange(1, height * width + 1) * _GOLDEN_RATIO % 1  # (N,)
    weights /= weights.sum()
    gazes: NDArray[np.float64] = weights @ (maps.astype(np.float64) @ centres)  # (heads, 2)
    return gazes
