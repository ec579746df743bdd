"""Workers that share a port share its connections evenly, in any order of waking up."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from aaserve.service.process.accept import Acceptor
from aaserve.service.process.connection_counts import ConnectionCounts
from tests.helpers import running_service, wait_until
from tests.service.process.shared_files import connection_counts


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as each:
        each.setblocking(False)
        yield each


def test_fewest_means_among_those_that_take_connections(tmp_path: Path) -> None:
    ConnectionCounts.create(str(tmp_path), 3)
    first, second, third = (ConnectionCounts(str(tmp_path), slot) for slot in range(3))
    for each in (first, second, third):
        each.ready(0)
        each.leave()
    assert not first.others_have_fewer(5)  # there is no other
    assert not second.others_have_fewer(4)
    assert first.others_have_fewer(5)
    assert not first.others_have_fewer(4)
    assert third.others_have_fewer(9)
    second.has(7)
    assert first.others_have_fewer(8)
    second.leave()
    second.has(7)
    assert not first.others_have_fewer(8)
    assert third.others_have_fewer(9)


def test_a_loading_worker_takes_connections_only_while_none_is_ready(tmp_path: Path) -> None:
    ConnectionCounts.create(str(tmp_path), 2)
    first, second = (ConnectionCounts(str(tmp_path), slot) for slot in range(2))
    assert not first.others_have_fewer(5)
    assert not second.others_have_fewer(9)
    assert first.may_take()
    second.ready(0)
    assert first.others_have_fewer(0)
    assert not second.others_have_fewer(9)
    assert not first.may_take()
    first.has(0)  # a connection that it had is closed
    assert not second.others_have_fewer(9)
    second.leave()
    assert first.may_take()
    first.ready(0)
    second.others_have_fewer(9)
    assert first.may_take()


def accepting(listening: socket.socket, folder: Path, others: Callable[[ConnectionCounts], object]) -> int:
    """How many of five waiting connections an acceptor that has one takes within its patience, and a little more."""
    ConnectionCounts.create(str(folder), 2)
    here, other = (ConnectionCounts(str(folder), slot) for slot in range(2))
    here.ready(1)
    other.ready(0)
    others(other)
    taken: list[socket.socket] = []

    async def welcome(connection: socket.socket) -> None:
        taken.append(connection)

    async def main() -> int:
        acceptor = Acceptor(listening, welcome, lambda: 1 + len(taken), here)
        await asyncio.sleep(0)
        for _ in range(4):  # turns of the event loop, far less than the patience
            await asyncio.sleep(0)
        soon = len(taken)
        while len(taken) < 5:
            await asyncio.sleep(0.001)
        acceptor.close()
        return soon

    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(listening.getsockname()))
        soon = asyncio.run(main())
        for connection in taken:
            connection.close()
    return soon


def test_the_worker_with_the_fewest_connections_accepts_at_once(listening: socket.socket, tmp_path: Path) -> None:
    assert accepting(listening, tmp_path, lambda other: other.others_have_fewer(9)) >= 3
    assert accepting(listening, tmp_path, lambda other: other.leave()) >= 3


def test_a_worker_with_more_connections_waits_for_the_others_but_not_for_ever(
    listening: socket.socket, tmp_path: Path
) -> None:
    """Returns at all because a worker that does not come is not waited for."""
    assert accepting(listening, tmp_path, lambda other: other.others_have_fewer(0)) == 0


def test_a_socket_that_fails_at_once_does_not_disturb_others(listening: socket.socket) -> None:
    async def main() -> int:
        welcomed = 0

        async def welcome(connection: socket.socket) -> None:
            nonlocal welcomed
            welcomed += 1
            raise ConnectionResetError

        acceptor = Acceptor(listening, welcome, lambda: 0, None)
        while welcomed < 2:
            await asyncio.sleep(0.001)
        acceptor.close()
        return welcomed

    with socket.create_connection(listening.getsockname()), socket.create_connection(listening.getsockname()):
        assert asyncio.run(main()) == 2


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
def test_no_worker_has_all_the_connections() -> None:
    with running_service("--workers", "2") as service, ExitStack() as stack:
        workers = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
        port = int(str(service.client.base_url).rpartition(":")[2].strip("/"))

        def sockets() -> Counter[str]:
            found: Counter[str] = Counter()
            for worker in workers:
                for descriptor in Path(f"/proc/{worker}/fd").iterdir():
                    with suppress(FileNotFoundError):  # closed meanwhile
                        found[worker] += str(descriptor.readlink()).startswith("socket:")
            return found

        def connect(number: int) -> list[int]:
            """How many of so many, and of those before, each worker has."""
            for _ in range(number):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n")
                connection.recv(1)
            return [(sockets() - before)[worker] for worker in workers]

        def even() -> bool:
            """After some more: who is busy at the moment leaves them to the other, who then leaves the next ones."""
            taken = connect(4)
            assert sum(taken) < 200, f"{taken} connections"
            return min(taken) >= sum(taken) / 4

        before = sockets()
        wait_until(lambda: min(connect(1)) > 0, seconds=60)  # both take some now
        before = sockets()
        wait_until(even)
        stack.close()
        numbers = connection_counts(workers[0])
        wait_until(lambda: numbers.read_bytes() == bytes(8))  # said as they close, not when the next one comes
