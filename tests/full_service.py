"""A service whose queue stays full as long as a test needs it."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.helpers import RunningService, running_service, wait_until
from tests.toy_bundles import HANGS, picture, write_fragile_bundle

MODEL = "fragile"
QUEUED = {"name": "aaserve_queue_depth", "model": MODEL}
_FOREVER = ("--model-call-timeout-ms", "600000", "--request-timeout-ms", "600000")
_ONE_ROW = ("--max-queue-size", "1", "--max-batch-size", "1", "--intra-op-num-threads", "1")


def request(body: bytes, *headers: str, path: str = "/classify") -> bytes:
    """A POST of an image, as bytes on the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: image/png", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def full_service(repository: Path, *options: str, headers: dict[str, str] | None = None) -> Iterator[RunningService]:
    """Start a service whose model hangs on one row while another row fills the queue; write its model first.

    Args:
        headers: for requests of images and for /metrics, if keys are set.
    """
    write_fragile_bundle(repository)
    lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
    with running_service(*_FOREVER, *_ONE_ROW, *options, repository=repository) as service, ExitStack() as held:
        service.client.headers.update(headers or {})
        try:
            for red, fills in ((HANGS, {"name": "aaserve_images_total", "outcome": "decoded"}), (1, QUEUED)):
                connection = held.enter_context(
                    socket.create_connection((service.client.base_url.host, service.client.base_url.port))
                )
                connection.sendall(request(picture(red), *lines))
                wait_until(lambda fills=fills: service.metric(**fills) == 1)
            service.client.headers.clear()
            yield service
        finally:
            service.process.kill()  # the model call does not come back
