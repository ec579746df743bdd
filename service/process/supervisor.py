"""--workers N: one process holds the port, N serve it.

supervisor: bind --> N times python -m service on that socket --> one that is killed is replaced; SIGTERM reaches all
worker:     its slot, the socket and the supervisor's lifeline, from the environment

A worker takes connections once it is ready, so that nobody is refused who could be served. Until one is, the first says
on the port that it loads; whoever is ready before it knocks, and it leaves the port until it is ready too.

A worker that ends by itself with an error (a bundle that broke, a provider that went away) would fail again, so it ends
the service with its status. A worker that a signal kills, or that ends because a model call hangs, is replaced.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import FrameType

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from aaserve.service.observability.metrics import worker_restarts
from aaserve.service.process.connection_counts import ConnectionCounts

VARIABLE = "_AASERVE_WORKER"
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the client library's name: set, it counts in files that workers share
HUNG = 75  # exit status of a process that only a new one can help: EX_TEMPFAIL of sysexits.h
KNOCK_TIMEOUT = 1.0  # seconds; whoever hears no knock for so long takes no connections either
RESTART_PAUSE = 1.0  # seconds between two starts in a slot, at least
log = logging.getLogger("aaserve")


@dataclass(frozen=True)
class Worker:
    """What a worker knows of itself; all other numbers but the slot are file descriptors."""

    slot: int
    listening: int
    lifeline: int  # reaches its end when the supervisor is gone
    door: int  # a socket between the first and all the others
    first: bool  # answers that it loads while it does
    supervisor: int  # its process id

    @classmethod
    def from_environment(cls) -> "Worker | None":
        """None in a process that is no worker."""
        text = os.environ.get(VARIABLE)
        return cls(**json.loads(text)) if text else None

    def balance(self) -> ConnectionCounts:
        """Of all workers, as this one sees it."""
        return ConnectionCounts(os.environ[METRICS_FOLDER], self.slot)

    def reload_all(self) -> None:
        """Have every worker do what the repository says now, this one too."""
        os.kill(self.supervisor, signal.SIGHUP)

    async def knock(self) -> None:
        """Return when the first worker takes no connections any more, unless it is ready itself."""
        with socket.socket(fileno=self.door) as door, suppress(ConnectionError, TimeoutError):  # it was gone before
            door.setblocking(False)
            door.send(b"\0")
            async with asyncio.timeout(KNOCK_TIMEOUT):
                await asyncio.get_running_loop().sock_recv(door, 1)


class Supervisor:
    """Keeps `count` workers running on one listening socket."""

    def __init__(self, count: int, listening: socket.socket, metrics_folder: str) -> None:
        self._count = count
        self._listening = listening
        self._metrics_folder = metrics_folder
        self._lifeline, self._lifeline_end = os.pipe()
        self._door, self._inside = socket.socketpair()
        self._slots: dict[int, int] = {}  # process id --> slot
        self._started = [0.0] * count
        self._stopping = False
        self._status = 0
        os.environ[METRICS_FOLDER] = metrics_folder  # for what is counted here, and for the workers
        values.ValueClass = values.MultiProcessValue(lambda: "supervisor")  # type: ignore[no-untyped-call]
        self._restarts = worker_restarts(None)

    def run(self) -> int:
        """Start the workers and stay until all have ended; the exit status."""
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, self._pass_on)
        signal.signal(signal.SIGHUP, lambda *_: self._tell_all(signal.SIGHUP))
        ConnectionCounts.create(self._metrics_folder, self._count)
        for slot in range(self._count):
            self._start(slot, first=slot == 0)
        self._inside.close()  # the first worker's is the last, and tells the others of its end
        while self._slots:
            process_id, status = os.waitpid(-1, 0)
            if process_id in self._slots:
                self._ended(process_id, os.waitstatus_to_exitcode(status))
        return self._status

    def _start(self, slot: int, *, first: bool = False) -> None:
        door = (self._inside if first else self._door).fileno()
        worker = Worker(slot, self._listening.fileno(), self._lifeline, door, first, os.getpid())
        # A worker inherits the blocked SIGHUP: until it can reload, one that comes waits instead of killing it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        process = subprocess.Popen(
            [sys.executable, "-m", "aaserve.service", *sys.argv[1:]],
            env={**os.environ, VARIABLE: json.dumps(asdict(worker))},
            pass_fds=(worker.listening, worker.lifeline, worker.door),
            start_new_session=True,  # Ctrl-C reaches the supervisor only, which passes it on once
        )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        process.returncode = 0  # run() waits for all of them at once; the object must not
        self._started[slot] = time.monotonic()
        self._slots[process.pid] = slot
        if self._stopping:  # since this worker was begun
            os.kill(process.pid, signal.SIGTERM)

    def _ended(self, process_id: int, status: int) -> None:
        slot = self._slots.pop(process_id)
        ConnectionCounts(self._metrics_folder, slot).leave()
        mark_process_dead(slot, self._metrics_folder)  # type: ignore[no-untyped-call]  # its gauges; what it counted stays
        if self._stopping:
            if status != -signal.SIGTERM:  # which is the end of one that had hardly begun
                self._status = self._status or status
        elif status >= 0 and status != HUNG:
            log.error("worker %d ended with status %d; stopping", slot, status)
            self._status = status or 1
            self._pass_on(signal.SIGTERM, None)
        else:
            end = "hung" if status == HUNG else f"was killed by signal {-status}"
            log.error("worker %d %s; replacing it", slot, end)
            time.sleep(max(0.0, RESTART_PAUSE - (time.monotonic() - self._started[slot])))
            if not self._stopping:
                self._start(slot)
                self._restarts.inc()

    def _pass_on(self, signal_number: int, _: FrameType | None) -> None:
        self._stopping = True
        self._listening.close()  # so that the last worker's close is the last
        self._tell_all(signal_number)

    def _tell_all(self, signal_number: int) -> None:
        for process_id in self._slots:
            os.kill(process_id, signal_number)
