"""Pictures that are decoded sooner than another thread has been told of them.

A thread that decodes gives the interpreter lock away at every step and waits for it again, while the event loop waits
for its turns: for a picture of 32x32 pixels that takes several times as long as the decoding (benchmarks/NOTES.md).
"""

from typing import Any

from numpy.typing import NDArray

from bundle.errors import ImageError
from bundle.manifest import Manifest
from bundle.model_input import read_input

SMALL_BYTES = 4096  # a PNG of 32x32 pixels has 3,200 at most
SMALL_PIXELS = 64 * 64


def read_small(picture: bytes, manifest: Manifest, *, max_pixels: int) -> NDArray[Any] | None:
    """As `read_input`, for what is certain to take a fraction of a millisecond; None for all else.

    None also for a picture with something wrong: what it is, whoever decodes it in a thread will say.
    """
    if len(picture) > SMALL_BYTES:
        return None
    try:
        return read_input(picture, manifest, max_pixels=min(SMALL_PIXELS, max_pixels))
    except ImageError:
        return None
