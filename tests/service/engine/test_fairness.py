"""Clients whose pictures take long, and those who must not wait for them."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest

from aaserve.service.engine.batch import DECODE_BUDGET, Batch, Outcome, Postponed, compute
from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.inference_threads import InferenceThreads
from aaserve.service.engine.queueing.admission import Admission
from aaserve.service.engine.queueing.client_usage import HALF_LIFE, LONG, ClientUsage
from aaserve.service.engine.queueing.fair_queue import FairQueue
from aaserve.service.engine.queueing.queued_request import Computed, QueuedRequest, RowSlice
from aaserve.service.engine.queueing.throughput import Throughput
from aaserve.service.errors import QueueFull
from tests.held_model import Model, batching, run, soon, waiting

ROW = np.ones(3, np.float32)


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Item:
    def __init__(self, client: str, enqueued: float) -> None:
        self.client = client
        self.enqueued = enqueued


def usage_with_slow(*clients: str, clock: Callable[[], float] | None = None) -> ClientUsage:
    usage = ClientUsage(clock or Clock())
    usage.seen("quick")
    for client in clients:
        usage.add(client, 4 * LONG)
    return usage


def test_use_counts_half_after_a_while_and_a_client_who_is_silent_is_forgotten() -> None:
    clock = Clock()
    usage = usage_with_slow("slow", clock=clock)
    clock.now = HALF_LIFE
    assert usage.used("slow") == 2 * LONG
    assert usage.is_slow("slow")
    clock.now = 10 * HALF_LIFE
    usage.seen("quick")
    assert usage.used("slow") == 0
    assert not usage.is_slow("slow")


def test_a_client_is_slow_if_most_of_its_time_goes_into_long_pictures() -> None:
    usage = usage_with_slow("slow", "mixed")
    for _ in range(20):
        usage.add("slow", 0.001)
        usage.add("mixed", LONG)
    usage.add("proxy", 2 * LONG)
    for _ in range(1000):
        usage.add("proxy", 0.01)
    assert [client for client in ("quick", "slow", "mixed", "proxy") if usage.is_slow(client)] == ["slow", "mixed"]


def test_a_lone_client_is_never_slow() -> None:
    usage = ClientUsage(Clock())
    usage.add("proxy", 4 * LONG)
    assert not usage.is_slow("proxy")
    usage.seen("another")
    assert usage.is_slow("proxy")


def test_clients_are_remembered_in_bounded_number() -> None:
    usage = ClientUsage(Clock())
    usage.add("first", 1)
    for number in range(10_000):
        usage.seen(str(number))
    assert usage.used("first") == 0


def test_a_client_counts_as_coming_later_by_what_it_has_used() -> None:
    usage = ClientUsage(Clock())
    usage.add("heavy", 1.0)
    queue: FairQueue[Item] = FairQueue(usage)
    items = [Item("heavy", 0.0), Item("heavy", 0.1), Item("light", 0.9), Item("light", 1.05)]
    for item in items:
        queue.add(item)
    order = []
    while item := queue.next():
        order.append(items.index(item))
        queue.remove(item)
    assert order == [2, 0, 3, 1]


def test_with_one_client_the_order_is_that_of_arrival() -> None:
    usage = ClientUsage(Clock())
    queue: FairQueue[Item] = FairQueue(usage)
    items = [Item("proxy", float(number)) for number in range(5)]
    for item in items:
        queue.add(item)
    taken = []
    while item := queue.next():
        queue.remove(item)
        taken.append(item)
        usage.add("proxy", 1.0)
    assert taken == items


def picture(client: str, answer: "asyncio.Future", decode: Callable[[], np.ndarray]) -> RowSlice:
    return QueuedRequest(1, decode, (), 0.0, 100.0, answer, client=client).take(1)


def run_alone(parts: list[RowSlice], usage: ClientUsage, cpu: Clock) -> list[Outcome]:
    return compute(Batch(parts), Model(), usage=usage, tracing=None, clock=Clock(), cpu_clock=cpu)


def test_decoded_rows_of_a_batch_are_computed_before_its_slow_pictures_are_decoded() -> None:
    async def scenario() -> None:
        loop, cpu, usage = asyncio.get_running_loop(), Clock(), ClientUsage(Clock())

        def decode() -> np.ndarray:
            cpu.now += 0.7 * DECODE_BUDGET
            return ROW

        parts = [picture("a", loop.create_future(), decode) for _ in range(4)]
        outcomes = run_alone(parts, usage, cpu)
        assert [part for part, outcome in outcomes if isinstance(outcome, Computed)] == parts[:2]
        assert [part for part, outcome in outcomes if isinstance(outcome, Postponed)] == parts[2:]
        assert usage.used("a") == pytest.approx(1.4 * DECODE_BUDGET)

    run(scenario())


def test_pictures_whose_callers_left_count_too() -> None:
    async def scenario() -> None:
        cpu, usage, answer = Clock(), ClientUsage(Clock()), asyncio.get_running_loop().create_future()

        def decode() -> np.ndarray:
            cpu.now += 1
            answer.cancel()
            return ROW

        part = picture("a", answer, decode)
        assert run_alone([part], usage, cpu) == []
        assert usage.used("a") == 1

    run(scenario())


def test_slow_pictures_leave_an_inference_thread_free_and_share_no_batch_with_others() -> None:
    async def scenario() -> None:
        model, usage, go = Model(), usage_with_slow("slow"), threading.Event()
        decoding: list[str] = []

        def slow_picture() -> np.ndarray:
            decoding.append("slow")
            assert go.wait(60)
            return ROW

        async with batching(model, size=8, lanes=InferenceThreads(2), usage=usage) as batcher:
            slow = [
                asyncio.ensure_future(batcher.submit(slow_picture, client="slow", deadline=soon(60))) for _ in range(3)
            ]
            while not decoding:
                await asyncio.sleep(0.001)
            quick = [batcher.submit(lambda: ROW, client="quick", deadline=soon(60)) for _ in range(5)]
            await asyncio.gather(*quick)  # although three slow ones came first, and none has ended
            assert decoding == ["slow"]
            await waiting(batcher, 2)
            go.set()
            await asyncio.gather(*slow)
        assert model.batches[-3:] == [1, 1, 1]

    run(scenario())


def test_pictures_of_a_client_who_becomes_slow_go_back_to_their_place() -> None:
    """All of them came in one batch, when nothing was known of the client."""

    async def scenario() -> None:
        model, usage = Model(), ClientUsage(Clock())
        decoded: list[int] = []

        def decode(number: int) -> np.ndarray:
            decoded.append(number)
            usage.add("slow", 4 * LONG)
            return ROW

        async with batching(model, size=8, usage=usage) as batcher:
            usage.seen("quick")
            work = [
                batcher.submit(lambda number=number: decode(number), client="slow", deadline=soon(60))
                for number in range(4)
            ]
            await asyncio.gather(*work)
        assert (decoded, model.batches) == ([0, 1, 2, 3], [1, 1, 1, 1])

    run(scenario())


def test_the_pool_keeps_a_thread_free_and_lets_quick_clients_go_first() -> None:
    async def scenario() -> None:
        usage, go, begun = usage_with_slow("slow"), threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            assert go.wait(60)

        with closing(CpuPool(2, usage)) as pool:
            slow = [asyncio.ensure_future(pool.run(hold, client="slow", deadline=soon(60))) for _ in range(4)]
            assert await asyncio.to_thread(begun.wait, 60)
            for _ in range(3):
                await pool.run(lambda: None, client="quick", deadline=soon(60))
            assert pool.waiting == 3
            go.set()
            await asyncio.gather(*slow)
            assert pool.waiting == 0

    asyncio.run(scenario())


def door(usage: ClientUsage, rows: int = 8) -> Admission:
    return Admission(
        max_rows=rows,
        longest_wait=60,
        computing=lambda slow: 0,
        usage=usage,
        throughput=Throughput(),
        slow_throughput=Throughput(),
    )


def test_slow_rows_have_a_part_of_the_places() -> None:
    admission = door(usage_with_slow("slow"))
    with admission.admit(timeout=1, slow=True), admission.admit(timeout=1, slow=True):
        with admission.admit(timeout=1, slow=True):
            refusal = admission.refusal(timeout=1, slow=True)
            assert refusal is not None
            assert "/explain" in str(refusal)
            assert admission.refusal(rows=5, timeout=1) is None
        assert admission.refusal(timeout=1, slow=True) is None


def test_rows_count_as_slow_once_their_client_has_become_so() -> None:
    usage = ClientUsage(Clock())
    usage.seen("quick")
    admission = door(usage)
    permits = [admission.admit(client="slow", timeout=1) for _ in range(4)]
    for permit in permits:
        permit.__enter__()
    assert admission.refusal(timeout=1, slow=True) is None
    usage.add("slow", 4 * LONG)
    with pytest.raises(QueueFull), admission.admit(client="slow", timeout=1, slow=True):
        pass
    for permit in permits:
        permit.__exit__(None, None, None)
    assert admission.slow_rows == 0
