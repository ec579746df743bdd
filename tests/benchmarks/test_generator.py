"""The load generator against servers that do, step by step, what a test says."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.harness.generator import Generator, post_request
from benchmarks.harness.samples import NO_ANSWER, percentiles
from tests.benchmarks.scripted_server import OK, REQUEST, at_once, serving


def closed_loops(generator: Generator, *, until: Callable[[], object], clients: int = 1) -> Counter[str]:
    """The codes of short loads, as many as it takes: a busy machine may send nothing at all in one of them."""
    codes: Counter[str] = Counter()
    for _ in range(100):
        codes.update(generator.closed_loop(clients=clients, seconds=0.1).codes)
        if until():
            return codes
    raise AssertionError("100 loads were not enough")


def test_a_stall_shows_in_every_request_that_was_appointed_meanwhile() -> None:
    """The server goes on only when 40 more have come: a generator that waits for answers would never send them."""
    released = threading.Event()
    instant: list[float] = []

    def stall(connection: socket.socket, number: int) -> None:
        if number == 50:
            instant.append(time.monotonic())
            released.set()
        if number > 10:
            assert released.wait(60)
        connection.sendall(OK)

    with serving(stall) as server, Generator([server.address], [REQUEST]) as generator:
        samples = generator.open_loop(per_second=500, seconds=0.4, seed=3)
    assert samples.codes == {"200": len(samples)}
    ended = samples.appointed + samples.seconds
    assert np.count_nonzero(ended < instant[0]) <= 10
    stalled = samples.seconds[(samples.appointed < instant[0]) & (ended >= instant[0])]
    assert len(stalled) >= 40
    assert percentiles(samples.seconds)["p99"] >= np.sort(stalled)[-3] * 1000


def test_lateness_of_the_generator_is_in_the_latency() -> None:
    with serving(at_once) as server, Generator([server.address], [REQUEST]) as generator:
        original, held = generator._connect, []

        def slow_connect():
            if not held:  # the first request keeps all the others waiting
                held.append(time.sleep(0.1))
            return original()

        generator._connect = slow_connect
        samples = generator.open_loop(per_second=200, seconds=0.2, seed=1)
    assert (samples.seconds >= samples.late).all()
    assert samples.late[np.argsort(samples.appointed)[1]] > 0


def test_a_closed_loop_has_as_many_requests_under_way_as_clients() -> None:
    together, most, lock = [0], [0], threading.Lock()
    all_here = threading.Barrier(4)

    def count(connection: socket.socket, number: int) -> None:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
        if number <= 4:
            all_here.wait(60)
        with lock:
            together[0] -= 1
        connection.sendall(OK)

    with serving(count) as server, Generator([server.address], [REQUEST]) as generator:
        samples = generator.closed_loop(clients=4, seconds=0.5)
        assert len(server.connections) == 4
        again = generator.closed_loop(clients=4, seconds=0.05)
        assert len(server.connections) == 4  # kept alive
    assert most[0] == 4
    assert len(samples) + len(again) == len(server.received)
    assert set(samples.codes) == {"200"}


def test_requests_are_sent_whole_and_in_rotation() -> None:
    bodies = [REQUEST.replace(b"picture", word) for word in (b"picturA", b"picturB", b"picturC")]
    with serving(at_once) as server, Generator([server.address], bodies) as generator:
        closed_loops(generator, until=lambda: len(server.received) >= 6)
    assert server.received[:6] == [*bodies, *bodies]


def test_a_request_larger_than_the_socket_takes_at_once_arrives_whole() -> None:
    large = post_request("/classify", bytes(range(256)) * 40_000, {})
    got: list[bytes] = []

    def take_slowly(connection: socket.socket, number: int) -> None:
        request = server.received[-1]
        while len(request) < len(large):
            request += connection.recv(2**20)
        got.append(request)
        connection.sendall(OK)

    with serving(take_slowly) as server, Generator([server.address], [large]) as generator:
        codes = closed_loops(generator, until=lambda: got)
    assert codes == {"200": len(got)}
    assert set(got) == {large}


def test_a_request_that_is_answered_from_its_head_is_sent_to_its_end_all_the_same() -> None:
    large = post_request("/classify", bytes(range(256)) * 40_000, {})
    whole: list[bytes] = []

    def answer_early(connection: socket.socket, number: int) -> None:
        stream = server.received[-1]
        while True:
            connection.sendall(OK)
            while len(stream) <= len(large):  # up to the beginning of the next
                if not (data := connection.recv(2**20)):
                    return
                stream += data
            whole.append(stream[: len(large)])
            stream = stream[len(large) :]

    with serving(answer_early) as server, Generator([server.address], [large]) as generator:
        codes = closed_loops(generator, until=lambda: len(whole) > 1)
    assert set(whole) == {large}
    assert set(codes) == {"200"}


ANSWERS = {
    "in one piece": [OK],
    "byte by byte": [OK[index : index + 1] for index in range(len(OK))],
    "chunked": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1;x=y\r\n}\r\n0", b"\r\n\r\n"],
    "chunks that look like the end": [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n0\r\n\r\n",
        b"\r\n0\r\n\r\n",
    ],
    "without a body": [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
}


@pytest.mark.parametrize("pieces", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_ends_where_it_says(pieces: list[bytes]) -> None:
    """The next request is sent only then, or the server would see two at once."""

    def answer(connection: socket.socket, number: int) -> None:
        for piece in pieces:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)  # nothing was sent yet
            connection.setblocking(True)
            connection.sendall(piece)
            if piece is not pieces[-1]:
                time.sleep(0.001)  # so that the pieces come apart

    with serving(answer) as server, Generator([server.address], [REQUEST]) as generator:
        codes = closed_loops(generator, until=lambda: len(server.received) > 1)
    assert codes == {"200": len(server.received)}
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"]
)
def test_a_connection_that_the_server_closes_is_replaced(head: bytes) -> None:
    def answer(connection: socket.socket, number: int) -> None:
        connection.sendall(head + b"{}")
        connection.shutdown(socket.SHUT_RDWR)

    with serving(answer) as server, Generator([server.address], [REQUEST]) as generator:
        codes = closed_loops(generator, until=lambda: len(server.received) > 2, clients=2)
    assert codes == {"200": len(server.received)}
    assert len(server.connections) == len(server.received)


def test_a_connection_that_was_closed_between_two_loads_is_replaced() -> None:
    with serving(at_once) as server, Generator([server.address], [REQUEST]) as generator:
        closed_loops(generator, until=lambda: len(server.connections) == 4, clients=4)
        for connection in server.connections:
            connection.shutdown(socket.SHUT_RDWR)
        codes = closed_loops(generator, until=lambda: len(server.connections) >= 8, clients=4)
        assert codes.keys() == {"200"}
        assert len(server.connections) == 8


def test_each_way_to_end_has_its_code() -> None:
    def answer(connection: socket.socket, number: int) -> None:
        if number % 3 == 0:
            connection.sendall(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 1\r\n\r\nx")
        elif number % 3 == 1:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroken off")
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(OK)

    with serving(answer) as server, Generator([server.address], [REQUEST]) as generator:
        samples = generator.closed_loop(clients=1, seconds=0.5)
    count = len(server.received)
    assert samples.codes == {"no answer": (count + 2) // 3, "200": (count + 1) // 3, "429": count // 3}
    assert len(samples.of(200)) == (count + 1) // 3
    assert samples.answered_per_second * 0.5 <= (count + 1) // 3


def test_a_request_that_is_never_answered_ends_with_our_patience() -> None:
    silent = threading.Event()
    with (
        serving(lambda connection, number: None if silent.is_set() else silent.set()) as server,
        Generator([server.address], [REQUEST], patience=0.1) as generator,
    ):
        samples = generator.open_loop(per_second=100, seconds=0.1, seed=0)
    assert set(samples.status) == {NO_ANSWER}
    assert len(samples) == len(server.received)
    assert (samples.appointed + samples.seconds >= samples.began + 0.2).all()


def test_answers_after_the_window_do_not_count_as_throughput() -> None:
    window = 0.5
    came: list[float] = []

    def answer(connection: socket.socket, number: int) -> None:
        came.append(time.monotonic())
        if number > 1:  # the window began before the first request came
            time.sleep(max(0.0, came[0] + window - time.monotonic()))
        connection.sendall(OK)

    with serving(answer) as server, Generator([server.address], [REQUEST]) as generator:
        samples = generator.closed_loop(clients=1, seconds=window)
    assert samples.codes == {"200": 2}
    assert samples.answered_per_second == pytest.approx(1 / window)


def test_arrivals_are_those_of_the_seed() -> None:
    with serving(at_once) as server, Generator([server.address], [REQUEST]) as generator:
        runs = [generator.open_loop(per_second=300, seconds=0.3, seed=seed) for seed in (5, 5, 6)]
    first, same, other = (np.diff(np.sort(run.appointed)) for run in runs)
    shared = min(len(first), len(same))
    assert np.allclose(first[:shared], same[:shared], atol=1e-5)
    assert not np.allclose(first[:5], other[:5], atol=1e-5)


def test_an_address_without_a_server_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
    with Generator([address], [REQUEST]) as generator, pytest.raises(OSError, match="refused"):
        generator.closed_loop(clients=1, seconds=1)


def test_clients_are_spread_over_addresses() -> None:
    with serving(at_once) as one, serving(at_once) as other:
        with Generator([one.address, other.address], [REQUEST]) as generator:
            closed_loops(generator, until=lambda: len(one.connections) + len(other.connections) >= 4, clients=4)
        assert len(one.connections) == len(other.connections) == 2
