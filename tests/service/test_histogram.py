"""What is observed stands in every scrape, whether it was told one by one or all together."""

import random
import threading
from collections.abc import Iterable

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.histogram import MOST, Histogram
from tests.helpers import EXAMPLES, running_service, wait_until

BOUNDS = (0.1, 0.5, 2)
JPEG = (EXAMPLES / "rocket.jpg").read_bytes()


def scraped(kind: type[prometheus_client.Histogram], amounts: Iterable[float]) -> str:
    registry = CollectorRegistry()
    histogram = kind("h", "d", ["label"], buckets=BOUNDS, registry=registry)
    for number, amount in enumerate(amounts):
        histogram.labels(number % 2).observe(amount)
    lines = generate_latest(registry).decode().splitlines()
    return "\n".join(line for line in lines if "_created" not in line)


CHANCE = random.Random(0)
AMOUNTS = {
    "none": [],
    "one": [0.25],
    "at the bounds": [*BOUNDS, *BOUNDS, 0, 3],
    "some": [CHANCE.choice((0.0625, 0.25, 1, 4)) for _ in range(100)],
    "more than are kept": [CHANCE.choice((0.0625, 0.25, 1, 4)) for _ in range(5 * MOST)],
}


@pytest.mark.parametrize("amounts", AMOUNTS.values(), ids=AMOUNTS)
def test_a_scrape_finds_what_the_library_would_have_counted(amounts: list[float]) -> None:
    assert scraped(Histogram, amounts) == scraped(prometheus_client.Histogram, amounts)


def test_nothing_is_lost_or_told_twice_by_threads_that_observe_and_tell_at_once() -> None:
    histogram = Histogram("h", "d", ["label"], buckets=BOUNDS, registry=CollectorRegistry())

    def observe() -> None:
        for _ in range(20_000):
            histogram.labels("x").observe(0.25)

    def tell() -> None:
        while not done.is_set():
            histogram.tell()

    done = threading.Event()
    observing, telling = ([threading.Thread(target=work) for _ in range(3)] for work in (observe, tell))
    for thread in observing + telling:
        thread.start()
    for thread in observing:
        thread.join()
    done.set()
    for thread in telling:
        thread.join()
    found = {f"{sample.name} {sample.labels.get('le')}": sample.value for sample in histogram.collect()[0].samples}
    assert (found["h_bucket 0.1"], found["h_bucket 0.5"], found["h_sum None"]) == (0, 60_000, 15_000)


def test_what_is_not_scraped_does_not_grow() -> None:
    histogram = Histogram("h", "d", ["label"], buckets=BOUNDS, registry=CollectorRegistry())
    for _ in range(3 * MOST + 7):
        histogram.labels("x").observe(1)
    assert len(histogram.labels("x").untold) == 7


def test_workers_find_what_another_has_observed_within_a_second() -> None:
    with running_service("--workers", "2", "--log-format", "json") as service:
        wait_until(lambda: sum('"message":"ready"' in line for line in service.log) == 2)
        for _ in range(8):  # each on a connection of its own, so that both have some
            assert service.client.post("/classify", content=JPEG, headers={"Connection": "close"}).status_code == 200
        wait_until(lambda: service.metric("aaserve_request_duration_seconds_count", endpoint="/classify") == 8)
        wait_until(lambda: service.metric("aaserve_stage_duration_seconds_count", stage="respond") == 8)
