"""--workers N: one process holds the port, N serve it.

supervisor: bind --> N times python -m service on that socket --> one that is killed is replaced; SIGTERM reaches all
            no process to be had --> try again later; a worker that is stopped (SIGSTOP) --> the others take all
worker:     its slot, the socket and the supervisor's lifeline, from the environment

All workers listen from their start. One that loads leaves connections to those that are ready, so that no
request is refused that could be answered (`ConnectionCounts`); where none is ready, it takes them and says so.

A worker that ends by itself with an error (a bundle that broke, a provider that went away) would fail again, so it ends
the service with its status. A worker that a signal kills, or that ends because a model call hangs, is replaced.
"""

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from aaserve.service.observability.metrics import worker_restarts
from aaserve.service.process.connection_counts import ConnectionCounts
from aaserve.service.resources import own_path, own_python

VARIABLE = "_AASERVE_WORKER"
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the client library's name: set, it counts in files that workers share
HUNG = 75  # exit status of a process that only a new one can help: EX_TEMPFAIL of sysexits.h
RESTART_PAUSE = 1.0  # seconds between two starts in a slot, at least
RETRY_PAUSE = 5.0  # seconds until the next try where the system has no process for a worker
_DEFERRED = {signal.SIGHUP, signal.SIGTERM}  # in a worker, until it knows what to do with them
_CHANGES = os.WNOHANG | os.WUNTRACED | os.WCONTINUED
log = logging.getLogger("aaserve")


@dataclass(frozen=True)
class Worker:
    """What a worker knows of itself; all other numbers but the slot are file descriptors."""

    slot: int
    listening: int
    lifeline: int  # reaches its end when the supervisor is gone
    supervisor: int  # its process id

    @classmethod
    def from_environment(cls) -> "Worker | None":
        """None in a process that is no worker."""
        text = os.environ.get(VARIABLE)
        return cls(**json.loads(text)) if text else None

    @property
    def shared(self) -> Path:
        """Folder of all workers."""
        return Path(os.environ[METRICS_FOLDER])

    def balance(self) -> ConnectionCounts:
        """Of all workers, as this one sees it."""
        return ConnectionCounts(os.environ[METRICS_FOLDER], self.slot)

    def reload_all(self) -> None:
        """Have every worker do what the repository says now, this one too."""
        os.kill(self.supervisor, signal.SIGHUP)


class Supervisor:
    """Keeps `count` workers running on one listening socket."""

    def __init__(self, count: int, listening: socket.socket, metrics_folder: str) -> None:
        self._count = count
        self._listening = listening
        self._metrics_folder = metrics_folder
        self._lifeline, self._lifeline_end = os.pipe()
        self._slots: dict[int, int] = {}  # process id --> slot
        self._started = [0.0] * count
        self._due: dict[int, float] = {}  # slot --> when to start a worker in it, on the monotonic clock
        self._signalled, self._wakeup = os.pipe()
        self._stopping = False
        self._status = 0
        os.environ[METRICS_FOLDER] = metrics_folder  # for what is counted here, and for the workers
        values.ValueClass = values.MultiProcessValue(lambda: "supervisor")  # type: ignore[no-untyped-call]
        self._restarts = worker_restarts(None)

    def run(self) -> int:
        """Start the workers and stay until all have ended; the exit status."""
        for end in (self._signalled, self._wakeup):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, self._pass_on)
        signal.signal(signal.SIGHUP, lambda *_: self._tell_all(signal.SIGHUP))
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes `_wait`
        ConnectionCounts.create(self._metrics_folder, self._count)
        for slot in range(self._count):
            self._start(slot)
        while self._slots or self._due:
            self._wait()
            self._look_at_workers()
            now = time.monotonic()
            for slot in [slot for slot, due in self._due.items() if due <= now]:
                self._due.pop(slot, None)  # a signal may have been faster
                self._start(slot)
        return self._status

    def _wait(self) -> None:
        """Return when a signal has come, such as that of a worker that ended, or a worker is due to start."""
        seconds = max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None
        select.select([self._signalled], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._signalled, 4096)

    def _look_at_workers(self) -> None:
        while self._slots:
            process_id, status = os.waitpid(-1, _CHANGES)
            if not process_id:
                return
            if process_id not in self._slots:
                continue
            slot = self._slots[process_id]
            if os.WIFSTOPPED(status):
                log.error("worker %d is stopped (SIGSTOP); the others take all new connections", slot)
                ConnectionCounts(self._metrics_folder, slot).leave()
            elif os.WIFCONTINUED(status):
                log.info("worker %d goes on", slot)  # and says again how many connections it has
            else:
                self._ended(process_id, os.waitstatus_to_exitcode(status))

    def _start(self, slot: int) -> None:
        if self._stopping:
            return
        worker = Worker(slot, self._listening.fileno(), self._lifeline, os.getpid())
        # A worker inherits what is blocked: until it can reload or stop, a signal waits instead of killing it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _DEFERRED)
        try:
            process = subprocess.Popen(
                [*own_python("aaserve.service"), *sys.argv[1:]],
                env={**os.environ, **own_path(), VARIABLE: json.dumps(asdict(worker))},
                pass_fds=(worker.listening, worker.lifeline),
                start_new_session=True,  # Ctrl-C reaches the supervisor only, which passes it on once
            )
        except (OSError, ValueError) as error:  # ValueError: a signal has just closed the socket
            if not self._stopping:  # else it is the socket, which is closed
                log.error("worker %d cannot be started: %s; trying again in %g s", slot, error, RETRY_PAUSE)
                self._due[slot] = time.monotonic() + RETRY_PAUSE
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _DEFERRED)
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
            self._status = self._status or status
        elif status >= 0 and status != HUNG:
            log.error("worker %d ended with status %d; stopping", slot, status)
            self._status = status or 1
            self._pass_on(signal.SIGTERM, None)
        else:
            end = "hung" if status == HUNG else f"was killed by signal {-status}"
            log.error("worker %d %s; replacing it", slot, end)
            self._due[slot] = self._started[slot] + RESTART_PAUSE
            self._restarts.inc()

    def _pass_on(self, signal_number: int, _: FrameType | None) -> None:
        self._stopping = True
        self._due.clear()
        self._listening.close()  # so that the last worker's close is the last
        self._tell_all(signal_number)
        self._tell_all(signal.SIGCONT)  # one that is stopped could not end

    def _tell_all(self, signal_number: int) -> None:
        for process_id in self._slots:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process_id, signal_number)
