"""python -m service.healthcheck: status 0 if the service in this container is ready, otherwise one line and status 1.

For the image: it has no curl, and its HEALTHCHECK needs no shell. Standard library only, as it runs every few seconds.
"""

import http.client
import os
import ssl
import sys

TIMEOUT = 2.0  # seconds
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # a container need not know "localhost"


def main() -> int:
    host = os.environ.get("AASERVE_HOST", "127.0.0.1")
    port = int(os.environ.get("AASERVE_PORT", "8080"))
    host = LOOPBACK.get(host, host)
    connection: http.client.HTTPConnection
    if os.environ.get("AASERVE_TLS_CERTIFICATE"):
        # It is for the name that clients use, not for the loopback address, and this asks nothing confidential.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        found = f"{answer.status} {answer.read().decode()}"
    except (OSError, http.client.HTTPException) as error:
        found = str(error)
    else:
        if answer.status == 200:
            return 0
    sys.stderr.write(f"error: /health/ready: expected 200, found {found}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
