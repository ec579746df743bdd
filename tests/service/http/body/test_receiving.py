"""Bodies on their way in: only bytes that have arrived take space, and a body that is too slow is given up."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from aaserve.service.errors import BodyTimeout, DeadlineExceeded, QueueFull
from aaserve.service.http.body.receiving import GRACE, MIN_BYTES_PER_SECOND, ReceiveStage
from tests.full_service import request
from tests.helpers import EXAMPLES, RunningService, running_service, slow_body_service, wait_until
from tests.hostile.wire import answers, connect, received, send
from tests.toy_bundles import HANGS, picture, write_fragile_bundle
from tests.virtual_time import VirtualLoop, run_in_virtual_time

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
CLOSE = "Connection: close"


def given_up(pieces: int, size: int, pause: float, *, deadline: float = 1000) -> tuple[float, type | None]:
    """When a body is given up that comes as `pieces` of `size` bytes with a pause before each, and with which error."""

    async def scenario(loop: VirtualLoop) -> tuple[float, type | None]:
        with ReceiveStage(10**9).receipt(10**9) as receipt:

            async def read(_: object) -> None:
                for _ in range(pieces):
                    await asyncio.sleep(pause)
                    receipt.arrived(size)

            try:
                await receipt.received(read, loop.time() + deadline)
            except (BodyTimeout, DeadlineExceeded) as error:
                return loop.time(), type(error)
        return loop.time(), None

    return run_in_virtual_time(scenario)


def test_a_body_of_which_nothing_comes_is_given_up_after_the_grace() -> None:
    assert given_up(1, 1, 100) == (GRACE, BodyTimeout)


def test_a_body_that_trickles_is_given_up() -> None:
    seconds, error = given_up(1000, MIN_BYTES_PER_SECOND // 2, 1)
    assert error is BodyTimeout
    assert seconds <= 2 * GRACE + 1


def test_a_body_that_comes_at_the_rate_asked_for_is_received() -> None:
    assert given_up(100, MIN_BYTES_PER_SECOND, 1) == (100, None)


def test_a_timer_that_is_early_does_not_make_a_slow_body_of_a_deadline() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        with ReceiveStage(10**9).receipt(10**9) as receipt:

            async def read(_: object) -> None:
                raise TimeoutError  # as the event loop's timer does, here before the clock has reached the deadline

            with pytest.raises(DeadlineExceeded):
                await receipt.received(read, loop.time() + GRACE / 2)

    run_in_virtual_time(scenario)


def test_the_deadline_holds_for_a_body_that_is_fast_enough() -> None:
    assert given_up(100, MIN_BYTES_PER_SECOND, 1, deadline=7.5) == (7.5, DeadlineExceeded)


def test_bodies_in_memory_are_bounded_but_a_single_one_always_fits() -> None:
    stage = ReceiveStage(100)
    with ExitStack() as stack:
        first, second = (stack.enter_context(stage.receipt(1000)) for _ in range(2))
        stage.check(500)
        first.hold(90)
        first.hold(90)
        with pytest.raises(QueueFull):
            stage.check(1)
        with pytest.raises(QueueFull):
            second.hold(1)
        assert (stage.bytes, second.held) == (180, 0)
    assert stage.bytes == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that takes one row at a time, and few bytes; it waits for them as long as a test takes."""
    repository = tmp_path_factory.mktemp("models")
    write_fragile_bundle(repository)
    options = ("--max-queue-size", "1", "--max-inflight-bytes", "100000", "--log-format", "json")
    with slow_body_service(*options, repository=repository) as service:
        yield service


def test_clients_that_announce_bodies_and_send_none_take_no_place(small: RunningService) -> None:
    with ExitStack() as stack:
        for number in range(40):
            silent = stack.enter_context(connect(small))
            head = request(bytes(1000))[:-1000]
            send(silent, head if number % 2 else head.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked"))
        wait_until(lambda: small.metric("aaserve_receiving_requests") == 40)
        assert small.client.post("/classify", content=picture(1)).status_code == 200
        assert small.metric("aaserve_body_bytes") == 0


def test_a_body_that_does_not_come_is_408(service: RunningService) -> None:
    with connect(service) as silent:
        send(silent, request(b"x" * 10, CLOSE)[:-1])
        [late] = answers(received(silent))
    assert (late.status, late.json["code"]) == (408, "body_timeout")
    assert service.classify(JPEG).status_code == 200


def test_bytes_that_have_arrived_count_until_their_request_ends(small: RunningService) -> None:
    with connect(small) as half:
        send(half, request(bytes(200_000))[:-120_000])
        wait_until(lambda: small.metric("aaserve_body_bytes") == 80_000)
        refused = small.client.post("/classify", content=JPEG * 2)
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert small.client.post("/classify", content=picture(1)).status_code == 200
    wait_until(lambda: small.metric("aaserve_body_bytes") == 0)


def test_a_client_that_leaves_before_its_body_is_complete_is_counted_as_disconnected(small: RunningService) -> None:
    before = small.metric("aaserve_rejected_total", reason="disconnected")
    with connect(small) as leaving:
        send(leaving, request(b"x" * 10, "X-Request-ID: gone")[:-1])
        wait_until(lambda: small.metric("aaserve_receiving_requests") == 1)
    wait_until(lambda: small.metric("aaserve_rejected_total", reason="disconnected") == before + 1)
    assert small.metric("aaserve_requests_total", endpoint="/classify", code="499") >= 1
    wait_until(lambda: any("gone" in line for line in small.log))
    assert json.loads(next(line for line in small.log if "gone" in line))["outcome"] == "disconnected"


def test_a_client_that_leaves_while_the_model_computes_is_not_waited_for(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service("--model-call-timeout-ms", "600000", repository=tmp_path) as service:
        try:
            with connect(service) as connection:
                send(connection, request(picture(HANGS)))
                wait_until(lambda: service.metric("aaserve_images_total", outcome="decoded") == 1)
            wait_until(lambda: service.metric("aaserve_rejected_total", reason="disconnected") == 1)
        finally:
            service.process.kill()  # the model call does not come back


def test_requests_that_come_together_are_answered_in_their_order(small: RunningService) -> None:
    with connect(small) as connection:
        bodies = [picture(1), picture(2), b"no picture", picture(3)]
        send(connection, b"".join(request(body) for body in bodies) + request(picture(0), CLOSE))
        found = answers(received(connection))
    assert [answer.status for answer in found] == [200, 200, 415, 200, 200]
    labels = [answer.json["predictions"][0]["label"] for answer in found if answer.status == 200]
    assert labels == ["b", "c", "d", "a"]
