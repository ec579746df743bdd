"""python -m benchmarks.threads --output FILE [--rounds 3]

How many lanes a model should have, and whether the threads of a lone request should spin (decision 0018): answers per
second of 8 clients and the median latency of one, by number of threads, spinning or not, with the bundle that ships
and with AA-ResNet-50. Interleaved rounds.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.circumstances import write_result
from benchmarks.generator import Generator
from benchmarks.load import post_request
from benchmarks.peers.own import Aaserve
from benchmarks.workloads import WORKLOADS, Workload

CLIENTS, SECONDS = 8, 3.0


def asked(host: str, port: int, requests: list[bytes], clients: int) -> tuple[float, float]:
    """Answers per second, and the median of their milliseconds."""
    with Generator([(host, port)], requests) as generator:
        generator.closed_loop(clients=clients, seconds=1)
        samples = generator.closed_loop(clients=clients, seconds=SECONDS)
    return samples.answered_per_second, float(np.median(samples.of(200))) * 1000


def measure(workload: Workload, threads: int, spinning: bool) -> dict[str, float]:
    options = ("--intra-op-num-threads", str(threads), f"--{'' if spinning else 'no-'}intra-op-spinning")
    requests = [post_request("/classify", each, {"Content-Type": workload.media_type}) for each in workload.pictures()]
    with Aaserve("aaserve", options=options).serve(workload.bundle()) as served:
        per_second, together = asked(served.host, served.port, requests, CLIENTS)
        _, alone = asked(served.host, served.port, requests, 1)
    return {"answers_per_second": per_second, f"p50_of_{CLIENTS}_clients_ms": together, "p50_of_1_client_ms": alone}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__.splitlines()[2])
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (default: 3)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    ways = [(WORKLOADS[name], *way) for name in ("W2s", "W3") for way in ((cores, True), (cores, False), (1, False))]
    rounds: dict[Any, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way in ways:
            rounds[way].append(measure(*way))
    rows = [
        {"workload": workload.words, "intra_op_num_threads": threads, "spinning": spinning}
        | {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]}
        for (workload, threads, spinning), found in rounds.items()
    ]
    write_result(arguments.output, {"clients": CLIENTS, "ways": rows}, "onnxruntime", "uvicorn")
    for row in rows:
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
