"""Threads that compute give way to the one that answers."""

import os
import threading

_NICE = 10


def give_way() -> None:
    """Lower the priority of the calling thread, where the system can do that for a thread (Linux).

    A refusal takes the event loop a tenth of a millisecond, but it must get the processor for it.
    """
    if hasattr(os, "setpriority") and hasattr(threading, "get_native_id"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
