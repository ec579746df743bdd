"""python -m service.healthcheck: status 0 if the service in this container is ready, otherwise one line and status 1.

For the image's HEALTHCHECK: it has no curl, and needs no shell. Only the standard library, as it runs every few seconds.
"""

import http.client
import os
import sys

TIMEOUT = 2.0  # seconds
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # a container need not know "localhost"


def main() -> int:
    host = os.environ.get("AASERVE_HOST", "127.0.0.1")
    port = int(os.environ.get("AASERVE_PORT", "8080"))
    connection = http.client.HTTPConnection(LOOPBACK.get(host, host), port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        found = f"{answer.status} {answer.read().decode()}"
    except (OSError, http.client.HTTPException) as error:
        found = str(error)
    else:
        if answer.status == 200:
            return 0
    print(f"error: /health/ready: expected 200, found {found}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
