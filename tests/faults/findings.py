"""What became of the requests while something broke.

A fault is one function in a file of its own: the service under load, the fault, and what became of it. It returns how
many requests were sent, how they ended for their senders, how the service counted them, how many seconds it took until
all was well again, and `checks`: sentences, each true or not.
"""

import time

from aaserve.service.observability.metrics import REFRESH
from tests.faults.running import Service
from tests.faults.traffic import Traffic

Findings = dict[str, object]


def tally(traffic: Traffic, counted: dict[str, int]) -> Findings:
    """The requests, by how they ended for their senders and as the service counted them."""
    return {"sent": len(traffic.ended), "ended": traffic.outcomes, "counted": dict(sorted(counted.items()))}


def nothing_left(service: Service, others: int = 0) -> bool:
    """Whether soon nothing waits and only this question is in flight, and what `others` have."""
    end = time.monotonic() + 20 * REFRESH  # workers report no more often, and a slow machine is late with it
    while time.monotonic() < end:
        waiting, inflight = service.metric("aaserve_queue_depth"), service.metric("aaserve_inflight_requests")
        if waiting <= others and inflight <= 1 + others:
            return True
        time.sleep(0.05)
    return False
