"""A histogram that tells the client library what it has observed now and then, and not each time.

observe --> untold --tell: a scrape, a second over (workers), many of them--> the library's values

Each observation changes two of the library's values, each with a lock of its own, and with --workers with a place in a
mapped file: twelve changes a request, a tenth of the event loop's part (benchmarks/NOTES.md).
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import prometheus_client
from prometheus_client.samples import Sample

MOST = 1000  # untold, of one series


class Histogram(prometheus_client.Histogram):
    """The library's, with labels; observes and tells in any thread."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        assert exemplar is None  # there is no trace to point to
        self.untold.append(amount)
        if len(self.untold) >= MOST:
            self._tell()

    def tell(self) -> None:
        """Of all series."""
        series: Any
        for series in self._metrics.copy().values():
            series._tell()

    def _metric_init(self) -> None:  # of a series
        super()._metric_init()
        self.untold: deque[float] = deque()

    def _tell(self) -> None:
        places: Counter[int] = Counter()
        total = 0.0
        with suppress(IndexError):  # there is no more; whoever else tells meanwhile has others
            while True:
                amount = self.untold.popleft()
                places[bisect_left(self._upper_bounds, amount)] += 1
                total += amount
        for place, number in places.items():
            self._buckets[place].inc(number)
        if places:
            self._sum.inc(total)

    def _child_samples(self) -> Iterable[Sample]:
        self._tell()
        return super()._child_samples()
