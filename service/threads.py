"""Threads that compute give way to the one that answers, and decoding to the model: what is begun is finished first."""

import os
import threading

INFERENCE, DECODING = 5, 10  # niceness; the event loop keeps its own


def give_way(niceness: int) -> None:
    """Lower the priority of the calling thread, where the system can do that for a thread (Linux).

    A refusal takes the event loop a tenth of a millisecond, but it must get the processor for it.
    """
    if hasattr(os, "setpriority") and hasattr(threading, "get_native_id"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
