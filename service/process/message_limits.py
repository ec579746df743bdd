"""How much one message may hold beside its body: bytes of its head, headers, chunks.

Bytes that are neither a piece of a body nor a whole head count together: a head that does not end, trailers, the
extensions of a chunk.
"""

from aaserve.service.errors import BodyTooLarge, HeadTooLarge

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 100  # trailers included
MAX_CHUNKS = 65_536  # of one body; as Triton has it


class MessageLimits:
    """Counts what comes, and raises where it is too much."""

    def __init__(self) -> None:
        self._bytes = 0
        self.begin()

    def begin(self) -> None:
        """Start to count the headers and chunks of a message."""
        self._headers_left, self._chunks_left = MAX_HEADERS, MAX_CHUNKS

    def received(self, size: int) -> None:
        """Count bytes that the parser is about to see."""
        self._bytes += size

    def check_bytes(self) -> None:
        """Raise HeadTooLarge after too many bytes without progress."""
        if self._bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge

    def progress(self) -> None:
        """Forget the bytes so far: they were a whole head, or a piece of a body."""
        self._bytes = 0

    def header(self) -> None:
        """Count a header or trailer; raise HeadTooLarge if there are too many."""
        self._headers_left -= 1
        if self._headers_left < 0:
            raise HeadTooLarge

    def chunk(self) -> None:
        """Count a chunk of the body; raise BodyTooLarge if there are too many."""
        self._chunks_left -= 1
        if self._chunks_left < 0:
            raise BodyTooLarge(f"the body has more than {MAX_CHUNKS} chunks")
