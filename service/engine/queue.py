"""Who waits for the model, in the order of arrival. Counts rows; bounds nothing, waits for nothing."""

from collections.abc import Iterator

from aaserve.service.engine.queued_request import QueuedRequest, RowSlice


class RowQueue:
    """Entries of which some rows are not handed to the model yet."""

    def __init__(self) -> None:
        self._entries: dict[QueuedRequest, None] = {}  # ordered, and an entry whose caller left goes at once
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[QueuedRequest]:
        return iter(list(self._entries))

    @property
    def oldest(self) -> QueuedRequest:
        return next(iter(self._entries))

    def add(self, entry: QueuedRequest) -> None:
        self._entries[entry] = None
        self.rows += entry.waiting

    def drop(self, entry: QueuedRequest) -> None:
        """Forget an entry, whether it still waits or not."""
        if entry in self._entries:
            del self._entries[entry]
            self.rows -= entry.waiting

    def take(self, room: int, now: float) -> list[RowSlice]:
        """The first `room` rows of those who still want an answer; an entry that does not fit is split."""
        parts: list[RowSlice] = []
        while room and self._entries:
            entry = self.oldest
            if not entry.wanted(now):
                self.drop(entry)
                continue
            part = entry.take(room)
            parts.append(part)
            room -= len(part)
            self.rows -= len(part)
            if not entry.waiting:
                del self._entries[entry]
        return parts
