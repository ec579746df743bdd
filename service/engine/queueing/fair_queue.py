"""Who waits, by client: those who have used much decode time lately wait behind those who have not.

A client's own requests keep their order. Between clients, the next is the one that came first, where each counts as if
it had come later by the seconds that it has used (`ClientUsage`). So no client waits for ever, and with a single
client, such as a proxy, the order is that of arrival.
"""

from typing import Generic, Protocol, TypeVar

from aaserve.service.engine.queueing.client_usage import ClientUsage


class Waiting(Protocol):
    """Something that waits; `enqueued` is an instant in seconds."""

    @property
    def client(self) -> str: ...

    @property
    def enqueued(self) -> float: ...


Item = TypeVar("Item", bound=Waiting)


class FairQueue(Generic[Item]):
    """Items in line. Not safe to share between threads."""

    def __init__(self, usage: ClientUsage) -> None:
        self._usage = usage
        self._items: dict[str, dict[Item, None]] = {}  # by client; ordered, and one that is removed goes at once

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def __contains__(self, item: Item) -> bool:
        return item in self._items.get(item.client, ())

    def add(self, item: Item) -> None:
        """Put an item behind those of its client."""
        self._items.setdefault(item.client, {})[item] = None

    def put_back(self, item: Item) -> None:
        """Put an item before those of its client."""
        self._items[item.client] = {item: None, **self._items.get(item.client, {})}

    def remove(self, item: Item) -> None:
        """Take an item out."""
        items = self._items[item.client]
        del items[item]
        if not items:
            del self._items[item.client]

    def next(self, *, slow: bool = True) -> Item | None:
        """The item whose turn it is; it stays.

        Args:
            slow: whether it may be one of a slow client.
        """
        heads = [next(iter(items)) for items in self._lines(slow)]
        if len(heads) < 2:
            return heads[0] if heads else None
        return min(heads, key=lambda item: item.enqueued + self._usage.used(item.client))

    def items(self, *, slow: bool = True) -> list[Item]:
        """All items; without `slow`, not those of slow clients."""
        return [item for items in self._lines(slow) for item in items]

    def _lines(self, slow: bool) -> list[dict[Item, None]]:
        return [items for client, items in self._items.items() if slow or not self.is_slow(client)]

    def is_slow(self, client: str) -> bool:
        """Whether a client's pictures take long."""
        return self._usage.is_slow(client)
