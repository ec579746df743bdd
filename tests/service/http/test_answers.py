"""Answers as JSON: large ones are written in pieces and in a thread, and say what small ones would."""

import asyncio
import json
import threading
from typing import Any

import numpy as np
import pytest

from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.http.answers import PIECE, json_array, json_object
from aaserve.service.http.inference import WRITTEN_INLINE, Taken

FLOATS = np.frombuffer(np.random.default_rng(0).bytes(4 * (3 * PIECE + 1)), np.float32)
FINITE = FLOATS[np.isfinite(FLOATS)]


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
@pytest.mark.parametrize(
    "item",
    [lambda n: n / 7, lambda n: f'"{n}" \\ ü\n', lambda n: {"label": f"a{n}", "class_index": n, "score": n / 3}],
    ids=["numbers", "texts", "objects"],
)
def test_an_array_in_pieces_is_the_array(item: Any, size: int) -> None:
    items = [item(n) for n in range(size)]
    assert json.loads(json_array(items)) == items


def test_numbers_are_read_back_bit_by_bit() -> None:
    assert len(FINITE) > PIECE
    read = np.array(json.loads(json_array(FINITE)), np.float64)
    np.testing.assert_array_equal(read.view(np.uint64), FINITE.astype(np.float64).view(np.uint64))


def test_an_object_of_json_is_an_object() -> None:
    assert json.loads(json_object({'a"': b"[1]", "b": b"{}"})) == {'a"': [1], "b": {}}


@pytest.mark.parametrize(("values", "inline"), [(WRITTEN_INLINE, True), (WRITTEN_INLINE + 1, False)])
def test_only_a_small_answer_is_written_on_the_event_loop(values: int, inline: bool) -> None:
    class Model:
        async def offload(self, work: Any, **of: Any) -> Any:
            return await pool.run(work, **of)

    async def ask() -> int:
        taken: Taken[Any, Any] = Taken(Model(), None, None, asyncio.get_running_loop().time() + 60, "me")
        return await taken.written(threading.get_ident, values=values)

    pool = CpuPool(1, ClientUsage())
    try:
        assert (asyncio.run(ask()) == threading.get_ident()) == inline
    finally:
        pool.close()
