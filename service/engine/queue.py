"""Who waits for the model. Counts rows; bounds nothing, waits for nothing."""

from collections.abc import Iterator

from aaserve.service.engine.client_usage import ClientUsage
from aaserve.service.engine.fair_queue import FairQueue
from aaserve.service.engine.queued_request import QueuedRequest, RowSlice


class RowQueue:
    """Entries of which some rows are not handed to the model yet, in the order of `FairQueue`."""

    def __init__(self, usage: ClientUsage) -> None:
        self._entries: FairQueue[QueuedRequest] = FairQueue(usage)
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[QueuedRequest]:
        return iter(self._entries)

    def oldest(self, *, slow: bool) -> QueuedRequest | None:
        """The entry whose turn it is; without `slow`, of the clients that are not slow."""
        return self._entries.next(slow=slow)

    def rows_waiting(self, *, slow: bool) -> int:
        """Rows; without `slow`, not those of slow clients."""
        return self.rows if slow else sum(entry.waiting for entry in self._entries.of_quick_clients())

    def add(self, entry: QueuedRequest) -> None:
        self._entries.add(entry)
        self.rows += entry.waiting

    def put_back(self, part: RowSlice) -> None:
        """Have rows wait that were taken, at their old place; they are all of their entry."""
        entry = part.request
        entry.taken = part.start
        self._entries.put_back(entry)
        self.rows += entry.waiting

    def drop(self, entry: QueuedRequest) -> None:
        """Forget an entry, whether it still waits or not."""
        if entry in self._entries:
            self._entries.remove(entry)
            self.rows -= entry.waiting

    def take(self, room: int, now: float, *, slow: bool = True) -> tuple[list[RowSlice], bool]:
        """The next `room` rows of those who still want an answer; an entry that does not fit is split.

        They end where somebody wants other outputs than the first one does.

        Args:
            slow: whether a picture of a slow client may be taken; if so, alone.

        Returns:
            the rows, and whether they are a slow client's.
        """
        parts: list[RowSlice] = []
        while room and (entry := self._entries.next(slow=slow)):
            if not entry.wanted(now):
                self.drop(entry)
                continue
            is_slow = not entry.decoded and self._entries.is_slow(entry.client)
            if parts and (is_slow or entry.names != parts[0].request.names):
                break
            part = entry.take(room)
            parts.append(part)
            room -= part.size
            self.rows -= part.size
            if not entry.waiting:
                self._entries.remove(entry)
            if is_slow:
                return parts, True
        return parts, False
