"""Clients that record how each request ended, to check that each ended exactly once.

connect --> head with an id of its own --> body --> answer with that id | connection broken | silence
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tests.faults.running import HOST, Service
from tests.helpers import ROOT

PICTURES = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.jpg"))]
PATH = "/classify?top_k=1"
ENOUGH = 50  # requests that show how the service does
SILENCE = 20.0  # seconds beyond its deadline without an answer
BROKEN, SILENT, FOREIGN = "broken", "silent", "foreign"  # not a status; FOREIGN: the answer to another request
_ids = itertools.count()


@dataclass(frozen=True, slots=True)
class Ended:
    """One request: when it began and ended (monotonic seconds), and how."""

    began: float
    at: float
    outcome: str


class Traffic:
    """`clients` at once, each sending a body again once its last request has ended.

    Args:
        bodies: pictures, taken at random.
        timeout_ms: deadline of each request.
        pause: seconds of each client between two requests.
    """

    def __init__(
        self,
        service: Service,
        *,
        bodies: Sequence[bytes] = PICTURES,
        clients: int = 8,
        timeout_ms: int = 10_000,
        path: str = PATH,
        pause: float = 0.04,
    ) -> None:
        self._port = service.port
        self._bodies = bodies
        self._clients = clients
        self._timeout_ms = timeout_ms
        self._path = path
        self._pause = pause
        self._stopping = False
        self.ended: list[Ended] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait until every request has ended."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(sorted(Counter(ended.outcome for ended in self.ended).items()))

    def since(self, instant: float) -> list[Ended]:
        """Requests that began then or later."""
        return [ended for ended in self.ended if ended.began >= instant]

    async def _client(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._stopping:
            began = time.monotonic()
            outcome = await ask(self._port, chance.choice(self._bodies), timeout_ms=self._timeout_ms, path=self._path)
            self.ended.append(Ended(began, time.monotonic(), outcome))
            await asyncio.sleep(self._pause)


async def ask(port: int, body: bytes, *, timeout_ms: int, path: str) -> str:
    """How one request on a connection of its own ends."""
    try:
        async with asyncio.timeout(timeout_ms / 1000 + SILENCE):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                request_id = f"fault-{next(_ids)}"
                writer.write(head(path, len(body), timeout_ms=timeout_ms, request_id=request_id) + body)
                return await _outcome(reader, request_id)
            finally:
                writer.close()
    except TimeoutError:
        return SILENT
    except (OSError, asyncio.IncompleteReadError):
        return BROKEN


def head(path: str, length: int, *, timeout_ms: int, request_id: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: aaserve\r\nContent-Type: application/octet-stream\r\n"
        f"X-Request-Timeout-Ms: {timeout_ms}\r\nX-Request-ID: {request_id}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def _outcome(reader: asyncio.StreamReader, request_id: str) -> str:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    await reader.readexactly(int(headers["content-length"]))
    return lines[0].split()[1] if headers["x-request-id"] == request_id else FOREIGN
