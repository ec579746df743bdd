"""How much decode time each client has used lately, and whose pictures take long.

Clients are names, such as addresses. Seconds are processor time, which a busy machine does not change.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

HALF_LIFE = 10.0  # seconds in which the use of a client counts half
LONG = 0.25  # seconds; a photograph of 12 megapixels takes less than half
_SOME = LONG / 8  # less than this says nothing
_FORGOTTEN = 60.0  # seconds without a request
_MAX_CLIENTS = 10_000  # remembered; beyond that the one that has been silent longest is forgotten


@dataclass(frozen=True, slots=True)
class _Use:
    """Sums as they were at an instant."""

    at: float
    seconds: float = 0.0
    squares: float = 0.0

    def by(self, now: float) -> tuple[float, float]:
        kept = 0.5 ** ((now - self.at) / HALF_LIFE)
        return self.seconds * kept, self.squares * kept


class ClientUsage:
    """Decaying sums by client; may be called from any thread. A lone client, such as a proxy, is never slow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.long_decodes = 0  # ever; while it stays the same, no client has become slow
        self._clients: OrderedDict[str, _Use] = OrderedDict()  # the one that has been silent longest comes first
        self._lock = threading.Lock()

    def seen(self, client: str) -> None:
        """Note a request."""
        self.add(client, 0.0)

    def add(self, client: str, seconds: float) -> None:
        """Note that something was decoded for a client, in so many seconds."""
        with self._lock:
            now = self._clock()
            used, squares = self._clients.get(client, _Use(now)).by(now)
            self._clients[client] = _Use(now, used + seconds, squares + seconds * seconds)
            self._clients.move_to_end(client)
            self.long_decodes += seconds >= LONG
            self._forget(now)

    def used(self, client: str) -> float:
        """Seconds that a client has used; they count half after HALF_LIFE."""
        with self._lock:
            use = self._clients.get(client)
            return use.by(self._clock())[0] if use else 0.0

    def is_slow(self, client: str) -> bool:
        """True if most of its time went into pictures that take LONG, while there are other clients, too."""
        if len(self._clients) < 2:
            return False
        with self._lock:
            now = self._clock()
            self._forget(now)
            use = self._clients.get(client)
            if use is None or len(self._clients) < 2:
                return False  # the others are forgotten
            seconds, squares = use.by(now)
            return seconds >= _SOME and squares >= LONG * seconds

    def _forget(self, now: float) -> None:
        while self._clients:
            client, use = next(iter(self._clients.items()))
            if now - use.at < _FORGOTTEN and len(self._clients) <= _MAX_CLIENTS:
                return
            del self._clients[client]
