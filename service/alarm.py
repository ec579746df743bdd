"""Ends the process when a call in its event loop does not come back: nothing else in it could.

    with Alarm(seconds): call --> returns
                              --> does not: SIGALRM shows where it hangs on stderr, and kills

A watchdog for other threads is in watchdog.py.
"""

import faulthandler
import signal


def arm() -> None:
    """Let SIGALRM show the stacks of all threads and end the process; in the main thread."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whoever started it may have had it ignored
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)


class Alarm:
    """Entered around calls, one at a time in a process; any number of times.

    Args:
        timeout: seconds that one call may take.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._timeout)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
