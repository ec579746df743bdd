"""What the batcher does when the model fails, answers nonsense, or never comes back."""

import asyncio
import threading
from functools import partial

import numpy as np
import pytest

from aaserve.service.errors import Draining, InferenceFailed, InvalidImage, ModelHung, ModelLost
from tests.held_model import ROW, Model, batching, run, soon, started, waiting


def test_a_row_made_in_an_inference_thread_fails_alone_and_not_if_its_caller_left() -> None:
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
                asyncio.create_task(batcher.submit(partial(make, value), deadline=soon())) for value in (1, -1, 2, 3)
            ]
            await waiting(batcher, 4)
            leaver.cancel()
            await waiting(batcher, 3)
            model.go.set()
            assert [(await task).outputs["doubled"][0, 0] for task in (first, one, other)] == [2, 2, 6]
            with pytest.raises(InvalidImage):
                await bad
        assert (made, model.batches) == ([1, -1, 3], [1, 2])

    run(scenario())


def test_a_batch_that_fails_is_run_again_caller_by_caller_and_only_the_culprit_fails() -> None:
    async def scenario() -> None:
        model = Model(held=True)

        def run_batch(batch: np.ndarray, names: tuple[str, ...], all_cores: bool) -> dict[str, np.ndarray]:
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
            assert (one.outputs["doubled"][0, 0], other.outputs["doubled"][0, 0]) == (6, 10)
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
            assert [answer.outputs["doubled"].shape for answer in await asyncio.gather(*mixed)] == [(1, 2), (1, 3)]
            await first

    run(scenario())


def test_a_model_that_answers_too_few_rows_fails_and_mixes_up_no_answers() -> None:
    async def scenario() -> None:
        async with batching(lambda batch, names, all_cores: {"cut": batch[1:]}) as batcher:
            with pytest.raises(InferenceFailed):
                await batcher.submit(np.ones((2, 3)), deadline=soon())

    run(scenario())


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
            assert (await batcher.submit(ROW, deadline=soon())).outputs["doubled"][0, 0] == 2
            assert recovered.is_set()

    run(scenario())


def test_a_model_that_is_lost_ends_every_wait_and_the_batcher() -> None:
    async def scenario() -> None:
        model = Model(held=True)
        model.failure = RuntimeError("device lost")

        def recover() -> None:
            raise ModelLost("the model is lost")

        lost: list[Exception] = []
        async with batching(model, size=1, recover=recover, on_lost=lost.append) as batcher:
            callers = [asyncio.create_task(batcher.submit(ROW, deadline=soon())) for _ in range(4)]
            await started(model)
            await waiting(batcher, 3)
            model.go.set()
            results = await asyncio.gather(*callers, return_exceptions=True)
            assert {type(result) for result in results} == {InferenceFailed}
            assert [type(cause) for cause in lost] == [ModelLost]
            assert not batcher.alive
            with pytest.raises(Draining):
                await batcher.submit(ROW, deadline=soon())

    run(scenario())


def test_a_model_that_is_abandoned_ends_every_wait_though_its_call_does_not_end() -> None:
    async def scenario() -> None:
        computing, end, ended = threading.Event(), threading.Event(), threading.Event()

        def hanging(batch: np.ndarray, names: tuple[str, ...], all_cores: bool) -> dict[str, np.ndarray]:
            computing.set()
            end.wait(60)
            ended.set()
            return {"same": batch}

        lost: list[Exception] = []
        async with batching(hanging, size=1, on_lost=lost.append) as batcher:
            callers = [asyncio.create_task(batcher.submit(ROW, deadline=soon())) for _ in range(4)]
            assert await asyncio.to_thread(computing.wait, 60)
            await waiting(batcher, 3)  # one prepared, two queued
            batcher.abandon(ModelHung("hung"))
            results = await asyncio.gather(*callers, return_exceptions=True)
            assert {type(result) for result in results} == {InferenceFailed}
            assert [type(cause) for cause in lost] == [ModelHung]
            assert not batcher.alive
        assert not ended.is_set()
        end.set()

    run(scenario())
