"""Pictures are read in threads, a few batches ahead of the one that is computed."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

BATCHES_AHEAD = 2

Item = TypeVar("Item")


def read_ahead(read: Callable[[int], Item], order: Sequence[NDArray[np.int64]], threads: int) -> Iterator[list[Item]]:
    """Yield what `read` returns for the indices of each batch in `order`."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[list[Future[Item]]] = deque()
    try:
        for batch in order:
            waiting.append([pool.submit(read, int(index)) for index in batch])
            if len(waiting) > BATCHES_AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
