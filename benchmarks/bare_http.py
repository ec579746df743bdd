"""python -m benchmarks.bare_http --output FILE [--seconds 5] [--image FILE]

What HTTP alone costs: uvicorn with an application that does nothing but answer 429, on one core, asked by a generator
on another, with the same requests as benchmarks.overload. Beside it the service itself, whose one place is taken.
"""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.circumstances import ROOT, write_result
from benchmarks.generator import Generator
from benchmarks.overload import request_of, service

APPLICATION = """
import os, sys, uvicorn
port, status, cores = int(sys.argv[1]), int(sys.argv[2]), [int(core) for core in sys.argv[3:]]
os.sched_setaffinity(0, cores or os.sched_getaffinity(0))
BODY = b'{"code":"queue_full"}'
HEADERS = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(BODY)).encode())]
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": status, "headers": HEADERS})
        await send({"type": "http.response.body", "body": BODY})
uvicorn.run(app, port=port, log_level="error", access_log=False, lifespan="off")
"""


FULL = ["--max-queue-size", "1", "--request-timeout-ms", "600000"]
UNFINISHED = b"POST /classify HTTP/1.1\r\nHost: aaserve\r\nContent-Type: image/jpeg\r\nContent-Length: 2\r\n\r\nx"


@contextmanager
def answering(status: int, *, cores: list[int] | None) -> Iterator[int]:
    """The port of uvicorn that answers so, on these cores or on all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", APPLICATION, str(port), str(status), *map(str, cores or ())])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def answers_per_second(port: int, request: bytes, seconds: float) -> float:
    """As fast as 32 clients get them."""
    with Generator([("127.0.0.1", port)], [request]) as generator:
        generator.closed_loop(clients=32, seconds=1)  # warm
        return len(generator.closed_loop(clients=32, seconds=seconds)) / seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare_http", description=__doc__.splitlines()[2])
    parser.add_argument("--image", type=Path, default=ROOT / "examples" / "astronaut.jpg", help="what is sent")
    parser.add_argument("--seconds", type=float, default=5, help="of measuring (default: 5)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    request = request_of(arguments.image.read_bytes())
    with answering(429, cores=[0]) as port:
        rate = answers_per_second(port, request, arguments.seconds)
    with service(FULL, [0]) as (host, port, _), socket.create_connection((host, port)) as holding:
        holding.sendall(UNFINISHED)
        refusals = answers_per_second(port, request, arguments.seconds)
    result = {
        "image_bytes": arguments.image.stat().st_size,
        "answers_per_second": round(rate),
        "microseconds_each": round(1e6 / rate, 1),
        "refusals_per_second_of_the_service": round(refusals),
        "microseconds_each_refusal": round(1e6 / refusals, 1),
    }
    write_result(arguments.output, result, "uvicorn", "httptools", "uvloop")
    print(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
