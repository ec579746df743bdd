"""The simulated replica against what queueing theory knows for certain."""

import statistics

import pytest

from benchmarks.one_core import Work, simulate


def mean(work: Work, *, per_second: float, requests: int = 40_000) -> float:
    return statistics.mean(simulate(work, per_second=per_second, requests=requests, seed=1))


def test_a_request_that_is_alone_takes_the_sum_of_its_work() -> None:
    work = Work(http=0.001, decode=0.002, batches=[0.003, 0.004])
    latencies = simulate(work, per_second=0.01, requests=100, seed=1)
    assert latencies == pytest.approx([0.006] * 100)


@pytest.mark.parametrize("utilisation", [0.3, 0.7])
def test_the_model_alone_without_batches_is_the_textbooks_queue(utilisation: float) -> None:
    """M/D/1, Pollaczek and Khinchine: the wait is ρs / 2(1 − ρ)."""
    seconds = 0.01
    expected = seconds + utilisation * seconds / (2 * (1 - utilisation))
    found = mean(Work(http=0, decode=0, batches=[seconds]), per_second=utilisation / seconds)
    assert found == pytest.approx(expected, rel=0.03)


def test_stages_share_the_core() -> None:
    work = Work(http=0.004, decode=0.003, batches=[0.003])
    assert mean(work, per_second=80) < 0.1
    assert mean(work, per_second=105) > 1  # more than the core can do: the queue grows and grows


def test_batches_carry_what_single_rows_cannot() -> None:
    work = Work(http=0, decode=0, batches=[0.010, 0.011, 0.012, 0.013])
    assert mean(work, per_second=200) < 0.05
    assert mean(Work(http=0, decode=0, batches=[0.010]), per_second=200) > 10


def test_no_load_is_above_what_the_fullest_batches_can_carry() -> None:
    work = Work(http=0.001, decode=0.001, batches=[0.003, 0.004])
    assert work.capacity == pytest.approx(1 / 0.004)
    assert mean(work, per_second=1.1 * work.capacity) > 1


def test_the_same_seed_is_the_same_day() -> None:
    work = Work(http=0.001, decode=0.002, batches=[0.003])
    assert simulate(work, per_second=100, requests=500, seed=3) == simulate(work, per_second=100, requests=500, seed=3)
    assert simulate(work, per_second=100, requests=500, seed=3) != simulate(work, per_second=100, requests=500, seed=4)
