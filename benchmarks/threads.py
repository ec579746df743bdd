"""python -m benchmarks.threads --output FILE [--rounds 2]

How many lanes a model should have (docs/decisions/0018-lanes.md; results before it are of another engine, in which all
threads shared each call and decoding had threads of its own): the shipped bundle, requests per second of 16 clients
and the median latency of one, by number of threads and with the model's threads spinning or not. Interleaved rounds.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.circumstances import ROOT, write_result
from benchmarks.generator import Generator
from benchmarks.overload import request_of, service

CLIENTS, SECONDS = 16, 3.0


def asked(host: str, port: int, request: bytes, clients: int) -> tuple[float, float]:
    """Answers per second, and the median of their milliseconds."""
    with Generator([(host, port)], [request]) as generator:
        generator.closed_loop(clients=clients, seconds=1)
        samples = generator.closed_loop(clients=clients, seconds=SECONDS)
    return samples.answered_per_second, float(np.median(samples.of(200))) * 1000


def measure(intra: int, decode: int, spinning: bool, request: bytes) -> dict[str, float]:
    options = ["--intra-op-num-threads", str(intra), "--decode-threads", str(decode)]
    options.append("--intra-op-spinning" if spinning else "--no-intra-op-spinning")
    with service(options, None) as (host, port, _):
        per_second, together = asked(host, port, request, CLIENTS)
        _, alone = asked(host, port, request, 1)
    return {"answers_per_second": per_second, "p50_of_16_clients_ms": together, "p50_of_1_client_ms": alone}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__.splitlines()[2])
    parser.add_argument("--rounds", type=int, default=2, help="of which the median counts (default: 2)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    request = request_of((ROOT / "examples" / "astronaut.jpg").read_bytes(), timeout_ms=10_000)
    ways = [(cores, cores, True), (cores, cores, False), (1, cores, True), (1, cores, False), (cores, 1, False)]
    rounds: dict[Any, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way in ways:
            rounds[way].append(measure(*way, request))
    rows = [
        dict(zip(("intra_op_num_threads", "decode_threads", "spinning"), way, strict=True))
        | {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]}
        for way, found in rounds.items()
    ]
    write_result(arguments.output, {"clients": CLIENTS, "ways": rows}, "onnxruntime", "uvicorn")
    for row in rows:
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
