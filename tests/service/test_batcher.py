"""The batcher by itself: no HTTP, no ONNX Runtime, a function in the model's place."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import numpy as np
import pytest

from service.batcher import DynamicBatcher, Few
from service.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    InvalidImage,
    ModelHung,
    ModelLost,
    QueueFull,
    TooManyRows,
)
from service.lanes import Lanes
from tests.virtual_time import VirtualLanes, VirtualLoop, run_in_virtual_time

ROW = np.ones((1, 3), np.float32)


class Model:
    """Doubles its input; can be held and can be made to fail, and remembers its batches."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[int] = []
        self.started = threading.Event()
        self.go = threading.Event()
        self.failure: Exception | None = None
        if not held:
            self.go.set()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        self.started.set()
        assert self.go.wait(10)
        if self.failure:
            raise self.failure
        return batch * 2


def batching(
    model: Callable[[np.ndarray], np.ndarray],
    *,
    size: int = 4,
    delay: float = 0,
    queue: int = 16,
    recover: Callable[[], None] = lambda: None,
    lanes: Lanes | None = None,
    few: Few | None = None,
) -> DynamicBatcher:
    return DynamicBatcher(
        model,
        lanes=lanes or Lanes(1),
        few=few,
        max_batch_size=size,
        max_queue_delay=delay,
        max_queue_size=queue,
        recover=recover,
        clock=asyncio.get_running_loop().time,
    )


def soon(seconds: float = 10) -> float:
    return asyncio.get_running_loop().time() + seconds


async def started(model: Model) -> None:
    assert await asyncio.to_thread(model.started.wait, 10)


async def waiting(batcher: DynamicBatcher, rows: int) -> None:
    async with asyncio.timeout(10):
        while batcher.queue_depth != rows:
            await asyncio.sleep(0)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_each_caller_gets_the_answer_to_its_own_row() -> None:
    async def scenario() -> None:
        async with batching(Model()) as batcher:
            answers = await asyncio.gather(*(batcher.submit(ROW * i, deadline=soon()) for i in range(16)))
        assert [answer.rows[0, 0] for answer in answers] == [2 * i for i in range(16)]

    run(scenario())


def test_a_free_model_takes_what_waits_at_once_and_no_more_than_a_batch() -> None:
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


def test_lanes_that_are_free_share_what_waits_and_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        async with batching(model, size=4, lanes=Lanes(2)) as batcher, asyncio.TaskGroup() as callers:
            for _ in range(6):
                callers.create_task(batcher.submit(ROW, deadline=soon()))
            async with asyncio.timeout(10):
                while len(model.batches) < 2:
                    await asyncio.sleep(0)
            assert (batcher.computing, batcher.queue_depth) == (6, 0)
            model.go.set()
        assert model.batches == [3, 3]

    run(scenario())


def test_few_rows_are_computed_by_all_the_cores_and_a_crowd_side_by_side() -> None:
    async def scenario() -> None:
        one, few = Model(held=True), Model(held=True)
        async with (
            batching(one, size=4, lanes=Lanes(2), few=Few(few, crowd=1.7)) as batcher,
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


def test_who_comes_while_all_cores_work_waits_for_them_until_it_is_a_crowd() -> None:
    async def scenario() -> None:
        one, few = Model(held=True), Model(held=True)
        async with (
            batching(one, size=4, lanes=Lanes(2), few=Few(few, crowd=3)) as batcher,
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
            assert go.wait(10)
            model.failure = None

        async with batching(model, lanes=Lanes(2), recover=recover) as batcher:
            with pytest.raises(InferenceFailed):
                await batcher.submit(ROW, deadline=soon())
            assert await asyncio.to_thread(recovering.wait, 10)
            later = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            await waiting(batcher, 1)
            await asyncio.sleep(0.01)
            assert model.batches == [1]
            go.set()
            assert (await later).rows[0, 0] == 2

    run(scenario())


def test_a_full_batch_is_with_the_lanes_before_one_is_free() -> None:
    lanes = VirtualLanes(1, lambda: 1.0)

    async def scenario(loop: VirtualLoop) -> None:
        async with batching(lambda batch: batch, size=2, lanes=lanes) as batcher:
            await asyncio.gather(*(batcher.submit(ROW, deadline=loop.time() + 10) for _ in range(6)))

    run_in_virtual_time(scenario)
    assert lanes.most_jobs == 2


def test_a_row_that_is_made_in_a_lane_fails_alone_and_not_if_nobody_wants_it() -> None:
    async def scenario() -> None:
        model, made = Model(held=True), []

        def make(value: int) -> np.ndarray:
            made.append(value)
            if value < 0:
                raise InvalidImage("not a picture")
            return ROW[0] * value

        async with batching(model) as batcher:
            first = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            await started(model)
            one, bad, leaver, other = [
                asyncio.create_task(batcher.submit_later(partial(make, value), deadline=soon()))
                for value in (1, -1, 2, 3)
            ]
            await waiting(batcher, 4)
            leaver.cancel()
            await waiting(batcher, 3)
            model.go.set()
            assert [(await task).rows[0, 0] for task in (first, one, other)] == [2, 2, 6]
            with pytest.raises(InvalidImage):
                await bad
        assert (made, model.batches) == ([1, -1, 3], [1, 2])

    run(scenario())


def test_who_leaves_while_its_row_is_made_is_not_computed() -> None:
    async def scenario() -> None:
        model, making, go = Model(), threading.Event(), threading.Event()

        def make() -> np.ndarray:
            making.set()
            assert go.wait(10)
            return ROW[0]

        async with batching(model) as batcher:
            leaver = asyncio.create_task(batcher.submit_later(make, deadline=soon()))
            assert await asyncio.to_thread(making.wait, 10)
            leaver.cancel()
            await asyncio.wait([leaver])
            go.set()
        assert model.batches == []

    run(scenario())


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
        assert answer.queue_seconds >= 0.05

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
        assert answer.rows[0, 0] == 2

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
            assert (await mate).rows[0, 0] == 10
            await first
        assert model.batches == [1, 1]

    run(scenario())


def test_a_batch_that_fails_is_run_again_caller_by_caller_and_only_the_culprit_fails() -> None:
    async def scenario() -> None:
        model = Model(held=True)

        def run_batch(batch: np.ndarray) -> np.ndarray:
            doubled = model(batch)
            if (batch < 0).any():
                raise RuntimeError("out of memory at 0x7f")
            return doubled

        async with batching(run_batch) as batcher:
            first = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            await started(model)
            callers = [asyncio.create_task(batcher.submit(ROW * i, deadline=soon())) for i in (3, -1, 5)]
            await waiting(batcher, 3)
            model.go.set()
            one, culprit, other = await asyncio.gather(*callers, return_exceptions=True)
            assert (one.rows[0, 0], other.rows[0, 0]) == (6, 10)
            assert isinstance(culprit, InferenceFailed)
            assert "0x7f" not in str(culprit)
            assert "0x7f" in str(culprit.__cause__)  # for the log
            await first
        assert model.batches == [1, 3, 1, 1, 1]

    run(scenario())


def test_rows_of_different_shapes_are_answered_one_by_one() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        async with batching(model) as batcher:
            first = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            await started(model)
            mixed = [asyncio.create_task(batcher.submit(np.ones((1, n), np.float32), deadline=soon())) for n in (2, 3)]
            await waiting(batcher, 2)
            model.go.set()
            assert [answer.rows.shape for answer in await asyncio.gather(*mixed)] == [(1, 2), (1, 3)]
            await first

    run(scenario())


def test_a_model_that_answers_too_few_rows_fails_and_mixes_up_nobody() -> None:
    async def scenario() -> None:
        async with batching(lambda batch: batch[1:]) as batcher:
            with pytest.raises(InferenceFailed):
                await batcher.submit(np.ones((2, 3)), deadline=soon())

    run(scenario())


def test_rows_that_do_not_fit_one_batch_are_split_and_joined_in_order() -> None:
    async def scenario() -> None:
        model = Model()
        rows = np.arange(10, dtype=np.float32)[:, np.newaxis]
        async with batching(model, size=4) as batcher:
            answer = await batcher.submit(rows, deadline=soon())
        np.testing.assert_array_equal(answer.rows, rows * 2)
        assert model.batches == [4, 4, 2]

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
        async with batching(lambda batch: batch, lanes=VirtualLanes()) as batcher:
            await batcher.submit(ROW, deadline=loop.time() + 10)
            await asyncio.sleep(1)  # what the answer left behind is done
            before = loop.rounds
            await asyncio.sleep(24 * 60 * 60)
            return loop.rounds - before

    assert run_in_virtual_time(scenario) <= 2  # to fall asleep, and to end the test


def test_a_batch_of_which_nothing_can_be_answered_asks_for_recovery() -> None:
    async def scenario() -> None:
        model, recovered = Model(), threading.Event()
        model.failure = RuntimeError("device lost")

        def recover() -> None:
            model.failure = None
            recovered.set()

        async with batching(model, recover=recover) as batcher:
            results = await asyncio.gather(
                *(batcher.submit(ROW, deadline=soon()) for _ in range(2)), return_exceptions=True
            )
            assert [type(result) for result in results] == [InferenceFailed, InferenceFailed]
            assert (await batcher.submit(ROW, deadline=soon())).rows[0, 0] == 2
            assert recovered.is_set()

    run(scenario())


def test_a_model_that_is_lost_ends_every_wait_and_the_batcher() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        model.failure = RuntimeError("device lost")

        def recover() -> None:
            raise ModelLost("the model is lost")

        async with batching(model, size=1, recover=recover) as batcher:
            callers = [asyncio.create_task(batcher.submit(ROW, deadline=soon())) for _ in range(4)]
            await started(model)
            await waiting(batcher, 3)
            model.go.set()
            results = await asyncio.gather(*callers, return_exceptions=True)
            assert {type(result) for result in results} == {InferenceFailed}
            with pytest.raises(ModelLost):
                await batcher.ended()
            assert not batcher.alive
            with pytest.raises(Draining):
                await batcher.submit(ROW, deadline=soon())

    run(scenario())


def test_a_model_that_is_abandoned_ends_every_wait_though_its_call_does_not_end() -> None:
    async def scenario() -> None:
        computing, end, ended = threading.Event(), threading.Event(), threading.Event()

        def hanging(batch: np.ndarray) -> np.ndarray:
            computing.set()
            end.wait(5)
            ended.set()
            return batch

        async with batching(hanging, size=1) as batcher:
            callers = [asyncio.create_task(batcher.submit(ROW, deadline=soon())) for _ in range(4)]
            assert await asyncio.to_thread(computing.wait, 10)
            await waiting(batcher, 3)  # one prepared, two queued
            callers.append(asyncio.create_task(batcher.call(lambda: None, deadline=soon())))
            await waiting(batcher, 4)
            batcher.abandon(ModelHung("hung"))
            results = await asyncio.gather(*callers, return_exceptions=True)
            assert {type(result) for result in results} == {InferenceFailed}
            with pytest.raises(ModelHung):
                await batcher.ended()
            assert not batcher.alive
        assert not ended.is_set()
        end.set()

    run(scenario())


def test_draining_answers_what_is_queued_and_takes_nothing_new() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        batcher = batching(model, size=1)
        async with batcher:
            callers = [asyncio.create_task(batcher.submit(ROW, deadline=soon())) for _ in range(3)]
            await started(model)
            await waiting(batcher, 2)
            model.go.set()
        assert [(await caller).rows[0, 0] for caller in callers] == [2, 2, 2]
        with pytest.raises(Draining):
            await batcher.submit(ROW, deadline=soon())
        assert not batcher.alive

    run(scenario())


def test_a_call_runs_between_batches_and_those_who_come_meanwhile_share_one() -> None:
    async def scenario() -> None:
        model, called, go = Model(), threading.Event(), threading.Event()

        def function() -> str:
            called.set()
            assert go.wait(10)
            return threading.current_thread().name

        async with batching(model) as batcher:
            call = asyncio.create_task(batcher.call(function, deadline=soon()))
            assert await asyncio.to_thread(called.wait, 10)
            assert batcher.computing == 1
            callers = [asyncio.create_task(batcher.submit(ROW, deadline=soon())) for _ in range(3)]
            await waiting(batcher, 3)
            go.set()
            await asyncio.gather(*callers)
            assert (await call).startswith("inference")
        assert model.batches == [3]

    run(scenario())


def test_a_call_whose_caller_left_or_whose_deadline_passed_is_never_made() -> None:
    async def scenario() -> None:
        model, made = Model(held=True), []
        async with batching(model) as batcher:
            batch = asyncio.create_task(batcher.submit(ROW, deadline=soon()))
            await started(model)
            leaver = asyncio.create_task(batcher.call(lambda: made.append("left"), deadline=soon()))
            await waiting(batcher, 1)
            leaver.cancel()
            with pytest.raises(DeadlineExceeded):
                await batcher.call(lambda: made.append("late"), deadline=soon(0.01))
            model.go.set()
            await batch
        assert made == []
        with pytest.raises(Draining):
            await batcher.call(lambda: None, deadline=soon())

    run(scenario())


def test_a_call_that_fails_asks_for_recovery_and_may_end_the_batcher() -> None:
    async def scenario() -> None:
        lost: list[bool] = [False]
        recovered = threading.Event()

        def recover() -> None:
            recovered.set()
            if lost[0]:
                raise ModelLost("the model is lost")

        async with batching(Model(), recover=recover) as batcher:
            with pytest.raises(InferenceFailed) as failure:
                await batcher.call(lambda: 1 // 0, deadline=soon())
            assert isinstance(failure.value.__cause__, ZeroDivisionError)
            assert (await batcher.submit(ROW, deadline=soon())).rows[0, 0] == 2
            assert recovered.is_set()
            lost[0] = True
            with pytest.raises(InferenceFailed):
                await batcher.call(lambda: 1 // 0, deadline=soon())
            with pytest.raises(ModelLost):
                await batcher.ended()

    run(scenario())
