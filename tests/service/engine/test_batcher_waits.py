"""Callers that wait for the batcher: refused, too late, gone, or answered before it closes."""

import asyncio
import threading

import numpy as np
import pytest

from aaserve.service.errors import DeadlineExceeded, Draining, QueueFull, TooManyRows
from tests.held_model import ROW, Model, batching, run, soon, started, waiting


def test_a_caller_who_leaves_while_its_row_is_made_is_not_computed() -> None:
    async def scenario() -> None:
        model, making, go = Model(), threading.Event(), threading.Event()

        def make() -> np.ndarray:
            making.set()
            assert go.wait(60)
            return ROW[0]

        async with batching(model) as batcher:
            leaver = asyncio.create_task(batcher.submit(make, deadline=soon()))
            assert await asyncio.to_thread(making.wait, 60)
            leaver.cancel()
            await asyncio.wait([leaver])
            go.set()
        assert model.batches == []

    run(scenario())


def test_a_full_queue_refuses_and_has_room_again_when_somebody_leaves() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        async with batching(model, queue=2) as batcher, asyncio.TaskGroup() as callers:
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await started(model)
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            leaver = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            await waiting(batcher, 2)
            with pytest.raises(QueueFull):
                await batcher.submit(ROW, deadline=soon())
            leaver.cancel()
            await waiting(batcher, 1)
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await waiting(batcher, 2)
            model.go.set()
        assert model.batches == [1, 2]

    run(scenario())


def test_a_deadline_that_passes_in_the_queue_ends_the_wait_and_frees_the_place() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        async with batching(model) as batcher:
            first = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            await started(model)
            with pytest.raises(DeadlineExceeded):
                await batcher.submit(ROW, deadline=soon(0.01))
            assert batcher.queue_depth == 0
            model.go.set()
            await first
        assert model.batches == [1]

    run(scenario())


def test_a_deadline_that_passes_during_inference_ends_the_wait() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        async with batching(model) as batcher:
            with pytest.raises(DeadlineExceeded):
                await batcher.submit(ROW, deadline=soon(0.05))
            model.go.set()
            answer = await batcher.submit(ROW, deadline=soon())
        assert answer.outputs["doubled"][0, 0] == 2

    run(scenario())


def test_a_caller_who_leaves_does_not_disturb_its_batch_mates() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        async with batching(model, size=2) as batcher:
            first = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            await started(model)
            leaver = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            mate = asyncio.create_task(batcher.submit(ROW * 5, deadline=soon()))
            await waiting(batcher, 2)
            leaver.cancel()
            await waiting(batcher, 1)
            model.go.set()
            assert (await mate).outputs["doubled"][0, 0] == 10
            await first
        assert model.batches == [1, 1]

    run(scenario())


def test_limits_count_rows_and_a_request_is_refused_as_a_whole() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        async with batching(model, size=1, queue=4) as batcher, asyncio.TaskGroup() as callers:
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await started(model)
            callers.create_task(batcher.submit(np.ones((3, 3)), deadline=soon()))
            await waiting(batcher, 3)
            with pytest.raises(QueueFull):
                await batcher.submit(np.ones((2, 3)), deadline=soon())
            assert batcher.queue_depth == 3
            with pytest.raises(TooManyRows):
                await batcher.submit(np.ones((5, 3)), deadline=soon())
            model.go.set()

    run(scenario())


def test_draining_answers_queued_requests_and_takes_no_new_ones() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        batcher = batching(model, size=1)
        async with batcher:
            callers = [asyncio.create_task(batcher.submit(ROW, deadline=soon())) for _ in range(3)]
            await started(model)
            await waiting(batcher, 2)
            model.go.set()
        assert [(await caller).outputs["doubled"][0, 0] for caller in callers] == [2, 2, 2]
        with pytest.raises(Draining):
            await batcher.submit(ROW, deadline=soon())
        assert not batcher.alive

    run(scenario())
