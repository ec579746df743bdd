"""python -m benchmarks.tracing --output FILE [--rounds 3]

What traces cost: the shipped bundle, requests per second of 16 clients and the median latency of one, with tracing off,
of one request in a hundred, of all, and of all with a collector that is away. Interleaved rounds.
"""

import argparse
import os
import statistics
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.circumstances import ROOT, write_result
from benchmarks.overload import request_of, service
from benchmarks.threads import CLIENTS, asked

NOBODY = "http://127.0.0.1:9"  # the port that discards, and refuses where nobody has turned it on


class Collector(BaseHTTPRequestHandler):
    """Takes all and keeps nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def measure(options: list[str], variables: dict[str, str], request: bytes) -> dict[str, float]:
    os.environ.update(variables)
    with service(options, None) as (host, port, _):
        per_second, _ = asked(host, port, request, CLIENTS)
        _, alone = asked(host, port, request, 1)
    return {"answers_per_second": per_second, "p50_of_1_client_ms": alone}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__.splitlines()[2])
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (default: 3)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    request = request_of((ROOT / "examples" / "astronaut.jpg").read_bytes(), timeout_ms=10_000)
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{collector.server_port}"
        ways = {
            "off": ([], here, "1"),
            "one in a hundred": (["--tracing"], here, "0.01"),
            "all": (["--tracing"], here, "1"),
            "all, collector away": (["--tracing"], NOBODY, "1"),
        }
        rounds: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way, (options, endpoint, ratio) in ways.items():
                variables = {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                    "OTEL_TRACES_SAMPLER_ARG": ratio,
                }
                rounds[way].append(measure(options, variables, request))
        collector.shutdown()
    rows = [
        {"traced": way} | {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]}
        for way, found in rounds.items()
    ]
    write_result(arguments.output, {"clients": CLIENTS, "ways": rows}, "fastapi", "opentelemetry-sdk", "uvicorn")
    for row in rows:
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
