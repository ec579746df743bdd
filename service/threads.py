"""Threads that compute give way to the one that answers, and what is decoded beside a model to the model's lanes."""

import os
import threading
from contextlib import suppress

INFERENCE, DECODING = 5, 10  # niceness; the event loop keeps its own


def give_way(niceness: int) -> None:
    """Lower the priority of the calling thread, where the system can do that for a thread (Linux).

    A refusal takes the event loop less than a tenth of a millisecond, but it must get the processor for it.
    """
    if hasattr(os, "setpriority") and hasattr(threading, "get_native_id"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def take_turns() -> None:
    """Have this thread, and those that it starts from now on, not interrupt one another (Linux: SCHED_BATCH).

    A thread that wakes up takes an idle processor at once, as ever; where none is idle it waits for the scheduler's
    next tick, a few milliseconds at most. So under overload the event loop refuses requests by the dozen, instead of
    interrupting the model for each of them (benchmarks/NOTES.md).
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a sandbox may know of no such thing; all that is lost is some speed under overload
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
