"""Free ports for a peer and its other listeners (metrics, gRPC, …)."""

import socket


def spare_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
