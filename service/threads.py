"""Threads that compute give way to the one that answers, and what is decoded beside a model to the model's lanes.

A thread that the service needs is started here, so that none can end without a word.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

INFERENCE, DECODING = 5, 10  # niceness above that of the process, which the event loop keeps
_HAND_OVER = 0.00005  # seconds; the system makes about twice as much of it
LOWEST = 19  # of all priorities; the largest niceness there is
OnEnd = Callable[[BaseException], None]
log = logging.getLogger("aaserve")


def start(name: str, target: Callable[[], None], on_end: OnEnd) -> threading.Thread:
    """Run `target` in a daemon thread; if it raises, the log says so and `on_end(error)` is called in that thread."""

    def live() -> None:
        try:
            target()
        except BaseException as error:
            ended(name, error)
            on_end(error)

    thread = threading.Thread(target=live, name=name, daemon=True)
    thread.start()
    return thread


def ended(name: str, error: BaseException) -> None:
    """Log that a thread which the service needs has ended."""
    log.error("the thread %s ended unexpectedly", name, exc_info=error)


def hand_over() -> None:
    """Let another thread have the interpreter lock now; by itself a thread gives it away after 5 ms only."""
    time.sleep(_HAND_OVER)


def lower_priority(niceness: int) -> None:
    """Lower the priority of the calling thread by `niceness`, where the system can do that for a thread (Linux).

    A refusal takes the event loop less than a tenth of a millisecond, but it must get the processor for it.
    """
    if hasattr(os, "setpriority") and hasattr(threading, "get_native_id"):
        thread = threading.get_native_id()
        with suppress(OSError):  # a sandbox may forbid it; all that is lost is some speed under overload
            present = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(present + niceness, LOWEST))


def take_turns() -> None:
    """Have this thread, and those that it starts from now on, not interrupt one another (Linux: SCHED_BATCH).

    A thread that wakes up takes an idle processor at once, as ever; where none is idle it waits for the scheduler's
    next tick, a few milliseconds at most. So under overload the event loop refuses requests by the dozen, instead of
    interrupting the model for each of them (benchmarks/NOTES.md).
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a sandbox may know of no such thing; all that is lost is some speed under overload
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
