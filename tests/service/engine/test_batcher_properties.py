"""Properties of the batcher over generated schedules of arrivals, departures, deadlines, failures, in virtual time."""

import asyncio
import itertools
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aaserve.service.engine.batcher import DynamicBatcher
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    InvalidImage,
    ModelLost,
    QueueFull,
    TooManyRows,
)
from tests.virtual_time import VirtualLoop, VirtualThreads, run_in_virtual_time

POISON = -1.0  # a row with this in it makes every batch fail that it is in
EXHAUSTIVE = settings(max_examples=400, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class Caller:
    """Times in seconds. Arrivals, deadlines and leaving never fall together, so that every schedule has one outcome."""

    arrives: int
    rows: int
    timeout: int
    leaves_after: int | None
    poisonous: bool
    picture: bool = False  # one row that is made in a lane
    damaged: bool = False  # which cannot be made

    @property
    def deadline(self) -> float:
        return self.arrives + self.timeout + 0.25

    @property
    def gone(self) -> float:
        return (
            self.deadline if self.leaves_after is None else min(self.deadline, self.arrives + self.leaves_after + 0.5)
        )


@dataclass
class Schedule:
    """What happens, and what of it was seen."""

    callers: list[Caller]
    durations: list[int]
    max_batch_size: int
    max_queue_size: int
    max_queue_delay: int
    lanes: int = 1
    crowd: int = 0  # below which rows are few
    failing_calls: frozenset[int] = frozenset()
    mortal: bool = False
    outcomes: dict[int, object] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    batches: list[tuple[float, list[int]]] = field(default_factory=list)  # instant, caller of each row
    decoded: list[tuple[float, int]] = field(default_factory=list)  # instant, caller
    deepest: int = 0
    most_at_the_model: int = 0
    left_over: tuple[int, int] = (0, 0)
    answered: int = 0


CALLERS = st.builds(
    Caller,
    arrives=st.integers(0, 12),
    rows=st.integers(1, 6),
    timeout=st.integers(0, 20),
    leaves_after=st.none() | st.integers(0, 10),
    poisonous=st.sampled_from([False, False, False, True]),
)
CALLERS |= st.builds(
    Caller,
    arrives=st.integers(0, 12),
    rows=st.just(1),
    timeout=st.integers(0, 20),
    leaves_after=st.none() | st.integers(0, 10),
    poisonous=st.sampled_from([False, False, False, True]),
    picture=st.just(True),
    damaged=st.sampled_from([False, False, True]),
)
SCHEDULES = st.builds(
    Schedule,
    callers=st.lists(CALLERS, max_size=12),
    durations=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    max_batch_size=st.integers(1, 5),
    max_queue_size=st.integers(1, 12),
    max_queue_delay=st.sampled_from([0, 0, 3]),
    lanes=st.integers(1, 3),
    crowd=st.sampled_from([0, 2, 4]),
)
FAULTY_SCHEDULES = st.builds(
    lambda schedule, failing, mortal: Schedule(
        **{**vars(schedule), "failing_calls": failing, "mortal": mortal},
    ),
    SCHEDULES,
    st.frozensets(st.integers(0, 10)),
    st.booleans(),
)


def rows_of(number: int, caller: Caller) -> np.ndarray:
    """(N, 3): caller, place, and poison in the middle one where it is to be."""
    rows = np.array([[number, place, 0] for place in range(caller.rows)], np.float64)
    if caller.poisonous:
        rows[caller.rows // 2, 2] = POISON
    return rows


def answer_to(rows: np.ndarray) -> np.ndarray:
    return rows * 2 + 1


def play(schedule: Schedule) -> Schedule:
    """Run the schedule to its end."""
    durations = itertools.cycle(schedule.durations)
    timed = 0

    def next_duration() -> float:
        """Seconds of the calls that an inference thread has just made; none if all callers of the batch had left."""
        nonlocal timed
        calls, timed = len(schedule.batches) - timed, len(schedule.batches)
        return sum(next(durations) for _ in range(calls))

    lanes = VirtualThreads(schedule.lanes, next_duration)

    async def scenario(loop: VirtualLoop) -> None:
        def run_batch(batch: np.ndarray, names: tuple[str, ...], all_cores: bool) -> dict[str, np.ndarray]:
            assert not all_cores or sum(map(batcher.computing, (False, True))) + batcher.queue_depth < schedule.crowd
            call = len(schedule.batches)
            schedule.batches.append((loop.time(), batch[:, 0].astype(int).tolist()))
            schedule.deepest = max(schedule.deepest, batcher.queue_depth)
            if (batch[:, 2] == POISON).any() or call in schedule.failing_calls:
                raise RuntimeError("cannot compute this")
            return {"answer": answer_to(batch)}

        def recover() -> None:
            if schedule.mortal:
                raise ModelLost("gone")

        def on_answered(rows: int, slow: bool) -> None:
            schedule.answered += rows

        batcher = DynamicBatcher(
            run_batch,
            few_rows=schedule.crowd,
            lanes=lanes,
            max_batch_size=schedule.max_batch_size,
            max_queue_delay=schedule.max_queue_delay,
            max_queue_size=schedule.max_queue_size,
            recover=recover,
            usage=ClientUsage(loop.time),
            on_answered=on_answered,
            clock=loop.time,
        )

        async def call(number: int, caller: Caller) -> None:
            await asyncio.sleep(caller.arrives)

            def decode() -> np.ndarray:
                schedule.decoded.append((loop.time(), number))
                if caller.damaged:
                    raise InvalidImage("not a picture")
                return rows_of(number, caller)[0]

            work = decode if caller.picture else rows_of(number, caller)
            submitted = asyncio.ensure_future(batcher.submit(work, deadline=caller.deadline))
            if caller.leaves_after is not None:
                loop.call_at(caller.arrives + caller.leaves_after + 0.5, submitted.cancel)
            await asyncio.wait([submitted])
            schedule.deepest = max(schedule.deepest, batcher.queue_depth)
            assert number not in schedule.outcomes
            schedule.outcomes[number] = "left" if submitted.cancelled() else submitted.exception() or submitted.result()
            schedule.ended[number] = loop.time()

        async with batcher:
            await asyncio.gather(*(call(number, caller) for number, caller in enumerate(schedule.callers)))
        schedule.most_at_the_model = lanes.most_jobs
        schedule.left_over = (batcher.queue_depth, sum(map(batcher.computing, (False, True))))

    run_in_virtual_time(scenario)
    return schedule


@EXHAUSTIVE
@given(FAULTY_SCHEDULES)
def test_every_request_ends_exactly_once_and_by_its_deadline(schedule: Schedule) -> None:
    play(schedule)
    assert set(schedule.outcomes) == set(range(len(schedule.callers)))
    for number, caller in enumerate(schedule.callers):
        assert schedule.ended[number] <= caller.gone
        if isinstance(schedule.outcomes[number], DeadlineExceeded):
            assert schedule.ended[number] == caller.deadline
    assert schedule.left_over == (0, 0)


@EXHAUSTIVE
@given(FAULTY_SCHEDULES)
def test_an_answer_is_that_of_the_rows_alone_in_their_order(schedule: Schedule) -> None:
    play(schedule)
    for number, caller in enumerate(schedule.callers):
        outcome = schedule.outcomes[number]
        if not isinstance(outcome, Exception | str):
            np.testing.assert_array_equal(outcome.outputs["answer"], answer_to(rows_of(number, caller)))
            assert outcome.stages["queue"] >= 0
            assert outcome.stages["inference"] >= 0


@EXHAUSTIVE
@given(SCHEDULES)
def test_only_the_culprit_fails(schedule: Schedule) -> None:
    play(schedule)
    for number, caller in enumerate(schedule.callers):
        outcome = schedule.outcomes[number]
        assert not isinstance(outcome, Draining)
        if caller.damaged:
            assert isinstance(outcome, InvalidImage | DeadlineExceeded | QueueFull | str)
        elif caller.poisonous:
            assert isinstance(outcome, InferenceFailed | DeadlineExceeded | QueueFull | TooManyRows | str)
        else:
            assert not isinstance(outcome, InferenceFailed)


@EXHAUSTIVE
@given(FAULTY_SCHEDULES)
def test_limits_count_rows_and_are_never_exceeded(schedule: Schedule) -> None:
    play(schedule)
    assert schedule.deepest <= schedule.max_queue_size
    assert schedule.most_at_the_model <= schedule.lanes + 2  # computing, one prepared, and looking after the model
    assert all(1 <= len(rows) <= schedule.max_batch_size for _, rows in schedule.batches)
    for number, caller in enumerate(schedule.callers):
        assert isinstance(schedule.outcomes[number], TooManyRows) == (
            caller.rows > schedule.max_queue_size and not isinstance(schedule.outcomes[number], Draining)
        )


@EXHAUSTIVE
@given(FAULTY_SCHEDULES)
def test_callers_who_left_are_not_computed(schedule: Schedule) -> None:
    play(schedule)
    for instant, numbers in schedule.batches:
        for number in numbers:
            assert instant < schedule.callers[number].gone
    for instant, number in schedule.decoded:
        assert instant < schedule.callers[number].gone
    assert len({number for _, number in schedule.decoded}) == len(schedule.decoded)  # once, also where a batch fails


@EXHAUSTIVE
@given(SCHEDULES)
def test_no_inference_thread_idles_while_requests_wait_without_a_delay(schedule: Schedule) -> None:
    """But where the few rows that wait would be computed at once by all the cores, which another batch has."""
    schedule.max_queue_delay, schedule.crowd = 0, 0
    schedule.callers = [replace(caller, poisonous=False) for caller in schedule.callers]  # a batch, a call
    durations = itertools.cycle(schedule.durations)
    play(schedule)
    free = [0.0] * schedule.lanes
    for instant, numbers in schedule.batches:
        arrivals = [schedule.callers[number].arrives for number in numbers]
        first = min(free)
        assert instant == first or (instant > first and instant in arrivals)
        free[free.index(first)] = instant + next(durations)
