"""How many connections this process can hold: each takes a file descriptor."""

import logging
import resource

RESERVED = 128  # for bundles, logs, threads, pipes and what is being opened
log = logging.getLogger("aaserve")


def allowed_connections(wanted: int) -> int:
    """Raise the process's own limit as far as it may for `wanted` connections; return how many there may be.

    Without room for the next one the event loop could not even take a connection to refuse it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = max(1, soft - RESERVED)
    log.warning("max_connections is %d, and the limit of open files (%d) allows %d", wanted, soft, allowed)
    return allowed
