"""What became of the requests of one load."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_ANSWER = 0  # in the place of a status: the connection broke, or patience ended
QUANTILES = (50, 90, 99, 99.9, 100)


@dataclass(frozen=True)
class Samples:
    """A row for each request that was to be sent, in the order in which they ended.

    Args:
        appointed: when it was to leave, in seconds of the monotonic clock. In a closed loop that is when it left.
        seconds: from then to the end of its answer, or of our patience; what the server or the generator made it
            wait is inside, so a stall shows in every request it delayed.
        late: seconds by which the generator itself sent it late.
        status: of the answer, or NO_ANSWER.
        began, window: when the load began, and for how many seconds requests were sent.
        processor_seconds: that the generator took.
    """

    appointed: NDArray[np.float64]
    seconds: NDArray[np.float64]
    late: NDArray[np.float64]
    status: NDArray[np.int64]
    began: float
    window: float
    processor_seconds: float

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def answered_per_second(self) -> float:
        """Answers of status 200 that were complete within the window; those after it would flatter the throughput."""
        in_window = self.appointed + self.seconds <= self.began + self.window
        return int(np.count_nonzero(in_window & (self.status == 200))) / self.window

    @property
    def codes(self) -> dict[str, int]:
        counted = Counter(self.status.tolist())
        return {"no answer" if code == NO_ANSWER else str(code): count for code, count in sorted(counted.items())}

    def of(self, status: int) -> NDArray[np.float64]:
        """The seconds of requests that ended so."""
        return self.seconds[self.status == status]


def percentiles(
    seconds: NDArray[np.float64] | Sequence[float], quantiles: Sequence[float] = (50, 99)
) -> dict[str, float] | None:
    """Milliseconds; p100 is called max."""
    if not len(seconds):
        return None
    found = np.percentile(seconds, quantiles) * 1000
    return {"max" if q == 100 else f"p{q:g}": round(float(value), 3) for q, value in zip(quantiles, found, strict=True)}
