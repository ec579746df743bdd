"""How many connections there may be, and which one goes when there is no room for another.

newcomer --room--> waits for a request --head is here--> works --answered--> waits ...
    |
    no room: the connection that has waited longest gives way; if none waits, a few more may ask for health only

A connection waits from its first moment until the head of a request is complete, and again once that is answered.
"""

from typing import Protocol

SPARE = 64  # connections beyond the limit, half of what file_descriptors.RESERVED keeps free


class Guest(Protocol):
    """A connection."""

    def give_way(self) -> None:
        """Close at once."""


class Room:
    """The connections of one process.

    Args:
        limit: of their number.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._guests: set[Guest] = set()
        self._spare: set[Guest] = set()  # those beyond the limit
        self._waiting: dict[Guest, None] = {}  # the one that has waited longest comes first

    def enter(self, guest: Guest) -> bool:
        """Let a connection in, which then waits; False if it must be closed without an answer."""
        if len(self._guests) - len(self._spare) >= self._limit and not self._made_room(spare=False):
            if len(self._spare) >= SPARE and not self._made_room(spare=True):
                return False
            self._spare.add(guest)
        self._guests.add(guest)
        self._waiting[guest] = None
        return True

    def is_spare(self, guest: Guest) -> bool:
        """Whether a connection is beyond the limit, so that it may only ask for health."""
        return guest in self._spare

    def waits(self, guest: Guest) -> None:
        """Note that a connection waits from now on."""
        if guest in self._guests:
            self._waiting.pop(guest, None)
            self._waiting[guest] = None

    def works(self, guest: Guest) -> None:
        """Note that a connection has a request, so it does not give way."""
        self._waiting.pop(guest, None)

    def leave(self, guest: Guest) -> None:
        """Note that a connection is gone."""
        self._guests.discard(guest)
        self._spare.discard(guest)
        self._waiting.pop(guest, None)

    def _made_room(self, *, spare: bool) -> bool:
        longest = next((guest for guest in self._waiting if self.is_spare(guest) == spare), None)
        if longest is None:
            return False
        self.leave(longest)
        longest.give_way()
        return True
