"""How the batcher makes batches. By itself: no HTTP, no ONNX Runtime, a function in the model's place."""

import asyncio
import threading

import numpy as np
import pytest

from aaserve.service.engine.batch import RunBatch
from aaserve.service.engine.inference_threads import InferenceThreads
from aaserve.service.errors import InferenceFailed
from tests.held_model import ROW, Model, batching, run, soon, started, waiting
from tests.virtual_time import VirtualLoop, VirtualThreads, run_in_virtual_time


def test_each_caller_gets_the_answer_to_its_own_row() -> None:
    async def scenario() -> None:
        async with batching(Model()) as batcher:
            answers = await asyncio.gather(*(batcher.submit(ROW * i, deadline=soon()) for i in range(16)))
        assert [answer.outputs["doubled"][0, 0] for answer in answers] == [2 * i for i in range(16)]

    run(scenario())


def test_a_free_model_takes_waiting_rows_at_once_and_no_more_than_a_batch() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        async with batching(model, size=4) as batcher, asyncio.TaskGroup() as callers:
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await started(model)  # the first goes alone: greedy
            for _ in range(6):
                callers.create_task(batcher.submit(ROW, deadline=soon()))
            await waiting(batcher, 6)
            model.go.set()
        assert model.batches == [1, 4, 2]

    run(scenario())


def test_free_inference_threads_share_the_queue_and_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        async with batching(model, size=4, lanes=InferenceThreads(2)) as batcher, asyncio.TaskGroup() as callers:
            for _ in range(6):
                callers.create_task(batcher.submit(ROW, deadline=soon()))
            async with asyncio.timeout(60):
                while len(model.batches) < 2:
                    await asyncio.sleep(0)
            assert (batcher.computing(False), batcher.queue_depth) == (6, 0)
            model.go.set()
        assert model.batches == [3, 3]

    run(scenario())


def either(one: Model, few: Model) -> RunBatch:
    return lambda batch, names, all_cores: (few if all_cores else one)(batch)


def test_few_rows_are_computed_by_all_the_cores_and_a_crowd_side_by_side() -> None:
    async def scenario() -> None:
        one, few = Model(held=True), Model(held=True)
        async with (
            batching(either(one, few), size=4, lanes=InferenceThreads(2), few_rows=1.7) as batcher,
            asyncio.TaskGroup() as callers,
        ):
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await started(few)
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await started(one)  # though `few` is busy: two are a crowd
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await waiting(batcher, 1)
            one.go.set(), few.go.set()
        assert (sum(few.batches), sum(one.batches)) == (1, 2)

    run(scenario())


def test_requests_wait_for_busy_cores_until_there_are_many() -> None:
    async def scenario() -> None:
        one, few = Model(held=True), Model(held=True)
        async with (
            batching(either(one, few), size=4, lanes=InferenceThreads(2), few_rows=3) as batcher,
            asyncio.TaskGroup() as callers,
        ):
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await started(few)
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await asyncio.sleep(0.01)
            assert (batcher.queue_depth, one.batches) == (1, [])
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await started(one)
            one.go.set(), few.go.set()
        assert few.batches == [1]

    run(scenario())


def test_nothing_is_given_to_a_model_that_is_being_looked_after() -> None:
    async def scenario() -> None:
        model, recovering, go = Model(), threading.Event(), threading.Event()
        model.failure = RuntimeError("device lost")

        def recover() -> None:
            recovering.set()
            assert go.wait(60)
            model.failure = None

        async with batching(model, lanes=InferenceThreads(2), recover=recover) as batcher:
            with pytest.raises(InferenceFailed):
                await batcher.submit(ROW, deadline=soon())
            assert await asyncio.to_thread(recovering.wait, 60)
            later = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            await waiting(batcher, 1)
            await asyncio.sleep(0.01)
            assert model.batches == [1]
            go.set()
            assert (await later).outputs["doubled"][0, 0] == 2

    run(scenario())


def test_a_full_batch_is_handed_to_the_threads_before_one_is_free() -> None:
    lanes = VirtualThreads(1, lambda: 1.0)

    async def scenario(loop: VirtualLoop) -> None:
        async with batching(lambda batch, names, all_cores: {"same": batch}, size=2, lanes=lanes) as batcher:
            await asyncio.gather(*(batcher.submit(ROW, deadline=loop.time() + 10) for _ in range(6)))

    run_in_virtual_time(scenario)
    assert lanes.most_jobs == 2


def test_with_a_delay_a_batch_waits_until_it_is_full() -> None:
    async def scenario() -> None:
        model = Model()
        async with batching(model, size=3, delay=10) as batcher:
            await asyncio.gather(*(batcher.submit(ROW, deadline=soon()) for _ in range(3)))
        assert model.batches == [3]

    run(scenario())


def test_with_a_delay_a_lonely_caller_is_answered_when_it_is_over() -> None:
    async def scenario() -> None:
        async with batching(Model(), size=3, delay=0.05) as batcher:
            answer = await batcher.submit(ROW, deadline=soon())
        assert answer.stages["queue"] >= 0.05

    run(scenario())


def test_rows_that_do_not_fit_one_batch_are_split_and_joined_in_order() -> None:
    async def scenario() -> None:
        model = Model()
        rows = np.arange(10, dtype=np.float32)[:, np.newaxis]
        async with batching(model, size=4) as batcher:
            answer = await batcher.submit(rows, deadline=soon())
        np.testing.assert_array_equal(answer.outputs["doubled"], rows * 2)
        assert model.batches == [4, 4, 2]

    run(scenario())


def test_the_next_batch_is_prepared_when_full_and_may_grow_until_then() -> None:
    """Prepared rows still wait, and who leaves then is still not computed."""

    async def scenario() -> None:
        model = Model(held=True)
        async with batching(model, size=3) as batcher, asyncio.TaskGroup() as callers:
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await started(model)
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await waiting(batcher, 1)
            leaver = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            callers.create_task(batcher.submit(ROW, deadline=soon()))
            await waiting(batcher, 3)
            await asyncio.sleep(0)  # prepared now
            leaver.cancel()
            await asyncio.wait([leaver])
            model.go.set()
        assert model.batches == [1, 2]

    run(scenario())


def test_an_idle_batcher_never_wakes_up() -> None:
    async def scenario(loop: VirtualLoop) -> int:
        async with batching(lambda batch, names, all_cores: {"same": batch}, lanes=VirtualThreads()) as batcher:
            await batcher.submit(ROW, deadline=loop.time() + 10)
            await asyncio.sleep(1)  # what the answer left behind is done
            before = loop.rounds
            await asyncio.sleep(24 * 60 * 60)
            return loop.rounds - before

    assert run_in_virtual_time(scenario) <= 2  # to fall asleep, and to end the test


def test_only_requests_for_the_same_outputs_share_a_batch() -> None:
    async def scenario() -> None:
        model, asked = Model(held=True), []

        def run_batch(batch: np.ndarray, names: tuple[str, ...], all_cores: bool) -> dict[str, np.ndarray]:
            asked.append(names)
            return {name: model(batch)["doubled"] for name in names}

        async with batching(run_batch, size=8) as batcher:
            wanted = [("a",), ("a",), ("a", "b"), ("a",)]
            first = asyncio.create_task(batcher.submit(ROW, names=("a",), deadline=soon()))
            await started(model)
            callers = [asyncio.create_task(batcher.submit(ROW, names=names, deadline=soon())) for names in wanted]
            await waiting(batcher, 4)
            model.go.set()
            assert [tuple((await caller).outputs) for caller in (first, *callers)] == [("a",), *wanted]
        assert asked == [("a",), ("a",), ("a", "b"), ("a",)]

    run(scenario())


def test_named_outputs_of_any_shape_are_split_and_joined_by_rows() -> None:
    """As a detector's: boxes (N, 2, 4), classes (N, 2), and a count (N,)."""

    async def scenario() -> None:
        def run_batch(batch: np.ndarray, names: tuple[str, ...], all_cores: bool) -> dict[str, np.ndarray]:
            number = batch[:, 0].astype(np.int64)
            boxes = np.broadcast_to(batch[:, :1, np.newaxis], (len(batch), 2, 4))
            return {"boxes": boxes, "classes": np.stack([number, -number], axis=1), "count": number}

        rows = np.arange(5, dtype=np.float32)[:, np.newaxis]
        async with batching(run_batch, size=2) as batcher:
            found = await batcher.submit(rows, deadline=soon())
        assert {name: values.shape for name, values in found.outputs.items()} == {
            "boxes": (5, 2, 4),
            "classes": (5, 2),
            "count": (5,),
        }
        for index in range(5):
            row = found.row(index)
            assert (row["boxes"] == index).all()
            assert (row["classes"].tolist(), row["count"]) == ([index, -index], index)

    run(scenario())
