"""The results of the requests in one load."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_ANSWER = 0  # instead of a status: the connection broke, or the wait timed out
QUANTILES = (50, 90, 99, 99.9, 100)


@dataclass(frozen=True)
class Samples:
    """A row for each scheduled request, in the order in which they ended.

    Args:
        appointed: scheduled time, in seconds of the monotonic clock; in a closed loop the time of sending.
        seconds: from then to the end of the answer, or to the timeout. It includes waits in the server and in the
            generator, so a stall shows in every delayed request.
        late: seconds by which the generator sent it late.
        status: HTTP status, or NO_ANSWER.
        began, window: start of the load, and the seconds during which requests were sent.
        processor_seconds: processor time of the generator.
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
        """Answers with status 200 that were complete within the window; later ones would inflate the throughput."""
        in_window = self.appointed + self.seconds <= self.began + self.window
        return int(np.count_nonzero(in_window & (self.status == 200))) / self.window

    @property
    def codes(self) -> dict[str, int]:
        counted = Counter(self.status.tolist())
        return {"no answer" if code == NO_ANSWER else str(code): count for code, count in sorted(counted.items())}

    def of(self, status: int) -> NDArray[np.float64]:
        """The seconds of requests with this status."""
        return self.seconds[self.status == status]


def percentiles(
    seconds: NDArray[np.float64] | Sequence[float], quantiles: Sequence[float] = (50, 99)
) -> dict[str, float] | None:
    """Percentiles in milliseconds; p100 is called max."""
    if not len(seconds):
        return None
    found = np.percentile(seconds, quantiles) * 1000
    return {"max" if q == 100 else f"p{q:g}": round(float(value), 3) for q, value in zip(quantiles, found, strict=True)}


def summary(samples: Samples) -> dict[str, Any]:
    """The reported values of a load."""
    return {
        "seconds": samples.window,
        "sent_per_second": round(len(samples) / samples.window, 1),
        "answered_per_second": round(samples.answered_per_second, 1),
        "codes": samples.codes,
        "ms": percentiles(samples.of(200), QUANTILES),
        "generator_late_ms": percentiles(samples.late, QUANTILES),
        "generator_microseconds_each": round(samples.processor_seconds / max(1, len(samples)) * 1e6, 1),
    }
