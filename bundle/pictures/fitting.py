"""Place a picture of any size in a network's input, and convert boxes between the two.

    fit "crop":       |--resized picture--|      "stretch": |picture|     "letterbox": |picture|background|
                          |--input--|                       |-input-|                  |------input-------|

Boxes are (left, top, right, bottom); pixel 0 extends from 0 to 1.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from aaserve.bundle.preprocessing import Preprocessing


class Placement(NamedTuple):
    """The position of the whole resized picture, in pixels of the input.

    Args:
        width, height: of the resized picture, at least 1.
        left, top: of its upper left corner; negative if a part is cropped.
    """

    width: int
    height: int
    left: int
    top: int


def placement(preprocessing: "Preprocessing", width: int, height: int) -> Placement:
    """The placement of an upright picture of `width` x `height` pixels.

    A letterbox keeps the aspect ratio, up to rounding to whole pixels. The picture is at the upper left, the background
    at the right or at the bottom.
    """
    input_height, input_width = preprocessing.crop
    match preprocessing.fit, preprocessing.resize:
        case "stretch", _:
            return Placement(input_width, input_height, 0, 0)
        case "crop", int(side):
            shorter = min(width, height)
            resized_width, resized_height = side * width // shorter, side * height // shorter
        case "crop", (resized_height, resized_width):
            pass
        case _:
            scale = min(input_width / width, input_height / height)
            return Placement(max(1, round(width * scale)), max(1, round(height * scale)), 0, 0)
    left, top = round((resized_width - input_width) / 2), round((resized_height - input_height) / 2)
    return Placement(resized_width, resized_height, -left, -top)


def to_picture(boxes: NDArray[np.floating], placed: Placement, width: int, height: int) -> NDArray[np.float64]:
    """Map boxes (..., 4) of the input to pixels of the upright picture of `width` x `height`, clipped to it."""
    offset = np.array((placed.left, placed.top) * 2)
    scale = np.array((width / placed.width, height / placed.height) * 2)
    mapped: NDArray[np.float64] = np.clip((boxes - offset) * scale, 0, (width, height) * 2)
    return mapped


def to_input(boxes: NDArray[np.floating], placed: Placement, width: int, height: int) -> NDArray[np.float64]:
    """Map boxes (..., 4) of the upright picture of `width` x `height` to pixels of the input; not clipped."""
    offset = np.array((placed.left, placed.top) * 2)
    scale = np.array((placed.width / width, placed.height / height) * 2)
    mapped: NDArray[np.float64] = boxes * scale + offset
    return mapped


def has_area(boxes: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether each box (..., 4) has an area. After `to_picture`, boxes that were outside of the picture have none."""
    longer: NDArray[np.bool_] = np.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    return longer
