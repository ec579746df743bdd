"""Answers as JSON, large ones piece by piece: an encoder holds the interpreter lock from the first byte to the last."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from aaserve.service.threads import hand_over

PIECE = 2048  # values that are encoded at once; as objects they take half a millisecond
WRITTEN_INLINE = PIECE  # values that an answer may have to be written on the event loop
Answer = TypeVar("Answer")


class Offload(Protocol):
    """Runs a function in a thread, as `Predictor.offload` does."""

    def __call__(self, work: Callable[[], Answer], *, deadline: float) -> Awaitable[Answer]: ...


async def written(write: Callable[[], Answer], *, values: int, offload: Offload, deadline: float) -> Answer:
    """Return `write()`, which runs in a thread if it would hold up the event loop.

    Args:
        values: that it reads: rows times classes.
        deadline: of the request, an instant of the event loop's clock.

    Raises:
        DeadlineExceeded: it was not done in time.
    """
    return write() if values <= WRITTEN_INLINE else await offload(write, deadline=deadline)


def json_array(items: Sequence[Any] | NDArray[Any]) -> bytes:
    """An array of numbers, texts or objects."""
    pieces: list[bytes] = []
    for start in range(0, len(items), PIECE):
        if start:
            hand_over()
        piece = items[start : start + PIECE]
        pieces.append(to_json(piece.tolist() if isinstance(piece, np.ndarray) else piece)[1:-1])
    return b"[" + b",".join(pieces) + b"]"


def json_object(members: Mapping[str, bytes]) -> bytes:
    """An object of values that are JSON already."""
    return b"{" + b",".join(to_json(name) + b":" + value for name, value in members.items()) + b"}"
