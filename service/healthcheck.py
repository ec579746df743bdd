"""python -m service.healthcheck: status 0 if the service in this container is ready, otherwise one line and status 1.

For the image: it has no curl, and its HEALTHCHECK needs no shell. Standard library only, as it runs every few seconds.
"""

import argparse
import http.client
import os
import ssl
import sys
from collections.abc import Sequence

TIMEOUT = 2.0  # seconds
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # a container need not know "localhost"


def main(argv: Sequence[str], prog: str = "python -m service.healthcheck") -> int:
    description = "Exit with 0 if the service on this machine is ready, at the AASERVE_PORT of the environment."
    argparse.ArgumentParser(prog=prog, description=description).parse_args(argv)
    host, port_text = _variable("AASERVE_HOST", "127.0.0.1"), _variable("AASERVE_PORT", "8080")
    try:
        port = int(port_text)
    except ValueError:
        return _failed(f"AASERVE_PORT: expected a whole number, found {port_text!r}")
    host = LOOPBACK.get(host, host)
    connection: http.client.HTTPConnection
    if _variable("AASERVE_TLS_CERTIFICATE", ""):
        # It is for the name that clients use, not for the loopback address, and this asks nothing confidential.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        found = f"{answer.status} {answer.read().decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as error:
        found = str(error)
    else:
        if answer.status == 200:
            return 0
    finally:
        connection.close()
    return _failed(f"/health/ready: expected 200, found {found}")


def _variable(name: str, default: str) -> str:
    """As the settings read it: what is empty is not set."""
    return os.environ.get(name, "").strip() or default


def _failed(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
