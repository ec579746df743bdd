"""How much one message may hold beside its body: bytes of its head, headers, chunks.

Bytes that are neither a piece of a body nor a whole head count together: a head that does not end, trailers, the
extensions of a chunk.
"""

from aaserve.service.errors import BodyTooLarge, HeadTooLarge

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 100  # trailers included
MAX_CHUNKS = 65_536  # of one body; as Triton has it


class MessageLimits:
    """Counts what comes, and raises where it is too much.

    Args:
        unproductive: bytes that the parser has seen since a whole head or a piece of a body came. A caller counts them,
            as it knows what comes.
    """

    def __init__(self) -> None:
        self.unproductive = 0
        self.begin()

    def begin(self) -> None:
        """Start to count the chunks and trailers of a message."""
        self._trailers, self._chunks_left = 0, MAX_CHUNKS

    def check_bytes(self) -> None:
        """Raise HeadTooLarge after too many unproductive bytes."""
        if self.unproductive > MAX_HEAD_BYTES:
            raise HeadTooLarge

    def trailer(self, headers: int) -> None:
        """Count a trailer of a message with so many headers; raise HeadTooLarge if together they are too many."""
        self._trailers += 1
        if headers + self._trailers > MAX_HEADERS:
            raise HeadTooLarge

    def chunk(self) -> None:
        """Count a chunk of the body; raise BodyTooLarge if there are too many."""
        self._chunks_left -= 1
        if self._chunks_left < 0:
            raise BodyTooLarge(f"the body has more than {MAX_CHUNKS} chunks")
