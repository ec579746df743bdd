"""Who waits for the model. Counts rows; bounds nothing, waits for nothing."""

from aaserve.service.engine.batch import Batch
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.engine.queueing.fair_queue import FairQueue
from aaserve.service.engine.queueing.queued_request import QueuedRequest, RowSlice


class RowQueue(FairQueue[QueuedRequest]):
    """Requests of which some rows are not handed to the model yet."""

    def __init__(self, usage: ClientUsage) -> None:
        super().__init__(usage)
        self.rows = 0

    def rows_waiting(self, *, slow: bool) -> int:
        """Rows; without `slow`, not those of slow clients."""
        return self.rows if slow else sum(request.waiting for request in self.items(slow=False))

    def add(self, item: QueuedRequest) -> None:
        super().add(item)
        self.rows += item.waiting

    def put_back_rows(self, part: RowSlice) -> None:
        """Have rows wait that were taken, at their old place; they are all of their request."""
        part.request.taken = part.start
        self.put_back(part.request)
        self.rows += part.request.waiting

    def drop(self, request: QueuedRequest) -> None:
        """Forget a request, whether it still waits or not."""
        if request in self:
            self.remove(request)
            self.rows -= request.waiting

    def take(self, room: int, now: float, *, slow: bool = True) -> Batch:
        """The next `room` rows of those who still want an answer; a request that does not fit is split.

        They end before a request that wants other outputs than the first one.

        Args:
            slow: whether a picture of a slow client may be taken; if so, alone.
        """
        batch = Batch([])
        while batch.rows < room and not batch.slow and (request := self.next(slow=slow)):
            if not request.wanted(now):
                self.drop(request)
                continue
            is_slow = not request.decoded and self.is_slow(request.client)
            if batch.parts and (is_slow or request.names != batch.parts[0].request.names):
                break
            part = request.take(room - batch.rows)
            batch.add(part, slow=is_slow)
            self.rows -= part.size
            if not request.waiting:
                self.remove(request)
        return batch
