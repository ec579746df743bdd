"""A small body that would become a large one."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from service.errors import BodyTooLarge
from service.protocol.compression import decompressed


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_bomb_never_takes_more_memory_than_the_limit(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            decompressed(bomb, encoding, max_bytes=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    assert decompressed(gzip.compress(b"x" * 100), "GZIP", max_bytes=100) == b"x" * 100
