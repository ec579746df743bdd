"""The door: what is let in, what is refused, and when to come back."""

import asyncio
from contextlib import ExitStack

import pytest

from aaserve.service.engine.queueing.admission import Admission
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.engine.queueing.throughput import Throughput
from aaserve.service.errors import QueueFull, TooManyRows


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def measured(rows_per_second: float) -> Throughput:
    clock = Clock()
    throughput = Throughput(clock)
    throughput.answered(1, more_wait=True)
    for _ in range(50):
        clock.now += 0.1
        throughput.answered(round(rows_per_second / 10), more_wait=True)
    return throughput


def door(throughput: Throughput | None = None, *, rows: int = 10, wait: float = 60, computing: int = 0) -> Admission:
    return Admission(
        max_rows=rows,
        longest_wait=wait,
        computing=lambda slow: 0 if slow else computing,
        usage=ClientUsage(),
        throughput=throughput or Throughput(),
        slow_throughput=Throughput(),
    )


def fill(admission: Admission, stack: ExitStack, rows: int) -> None:
    for _ in range(rows):
        stack.enter_context(admission.admit(timeout=1000))


def test_lets_in_as_many_rows_as_may_wait_and_again_when_one_has_left() -> None:
    admission = door(rows=2)
    with ExitStack() as stack:
        fill(admission, stack, 1)
        with admission.admit(timeout=1), pytest.raises(QueueFull):
            fill(admission, stack, 1)
        fill(admission, stack, 1)
    assert admission.refusal(timeout=1) is None


def test_rows_in_the_model_do_not_wait() -> None:
    with ExitStack() as stack:
        fill(door(rows=2, computing=1), stack, 3)


def test_rows_of_one_request_are_admitted_together_or_not_at_all() -> None:
    admission = door(rows=4)
    with admission.admit(timeout=1):
        with pytest.raises(QueueFull, match="no room for 4 images"), admission.admit(rows=4, timeout=1):
            pytest.fail("admitted")
        with admission.admit(rows=3, timeout=1):
            assert admission.refusal(timeout=1) is not None
    assert admission.refusal(timeout=1, rows=4) is None
    with pytest.raises(TooManyRows), admission.admit(rows=5, timeout=1):
        pytest.fail("admitted")


def test_a_model_is_empty_when_no_request_holds_a_permit_or_a_lease() -> None:
    async def scenario() -> None:
        admission = door()
        with admission.lease():
            empty = asyncio.ensure_future(admission.empty())
            with admission.admit(timeout=1):
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not empty.done()
        await empty

    asyncio.run(scenario())


def test_retry_after_is_when_the_requests_ahead_are_answered() -> None:
    with ExitStack() as stack:
        admission = door(measured(rows_per_second=20), rows=90)
        fill(admission, stack, 90)
        refusal = admission.refusal(timeout=1000)
        assert isinstance(refusal, QueueFull)
        assert refusal.retry_after == 5  # 90 rows at 20 a second, in whole seconds


def test_retry_after_is_never_less_than_a_second_nor_more_than_anything_can_wait() -> None:
    with ExitStack() as stack:
        quick, slow = door(measured(1000), rows=1), door(measured(10), rows=500, wait=10)
        fill(quick, stack, 1)
        fill(slow, stack, 500)
        assert [door.refusal(timeout=1000).retry_after for door in (quick, slow)] == [1, 10]


def test_a_request_that_cannot_be_answered_in_time_is_refused_at_once() -> None:
    with ExitStack() as stack:
        admission = door(measured(rows_per_second=20), rows=100)
        fill(admission, stack, 20)
        assert admission.refusal(timeout=0.9) is not None
        assert admission.refusal(timeout=2) is None


def test_nothing_is_refused_on_a_prediction_while_the_model_is_idle_or_nothing_was_measured() -> None:
    with ExitStack() as stack:
        slow = door(measured(rows_per_second=10))
        assert slow.refusal(timeout=0.001) is None
        unmeasured = door()
        fill(unmeasured, stack, 5)
        assert unmeasured.refusal(timeout=0.001) is None


def test_throughput_forgets_and_does_not_take_idle_time_for_slowness() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    assert throughput.seconds_for(1) is None
    throughput.answered(8, more_wait=False)
    clock.now += 1000  # nothing to do
    throughput.answered(8, more_wait=True)
    assert throughput.seconds_for(1) is None
    for rows in [1] * 50 + [4] * 200:
        clock.now += 0.1
        throughput.answered(rows, more_wait=True)
    assert throughput.seconds_for(40) == pytest.approx(1, rel=0.01)


def test_nothing_is_predicted_from_the_first_small_batches_of_a_burst() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    for _ in range(3):
        clock.now += 0.3
        throughput.answered(1, more_wait=True)
    assert throughput.seconds_for(64) is None


def test_a_process_that_was_stopped_does_not_take_itself_for_slow() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    for seconds in [0.1] * 50 + [60.0] + [0.1] * 20:  # SIGSTOP in the midst of work
        clock.now += seconds
        throughput.answered(10, more_wait=True)
    assert throughput.seconds_for(10) == pytest.approx(0.1, rel=0.5)


def test_a_model_that_really_became_slow_is_noticed() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    for seconds in [0.01] * 500 + [3.0] * 5:
        clock.now += seconds
        throughput.answered(10, more_wait=True)
    assert throughput.seconds_for(10) == pytest.approx(3, rel=0.5)
