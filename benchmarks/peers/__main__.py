"""python -m benchmarks.peers [--workloads W1 …] [--servers NAME …] [--rounds N] [--output FILE] …

Compares aaserve and its peers with the same model, pictures and answers. In each round every server has one turn, and
so has ONNX Runtime alone, so that other work on the machine affects all of them. Results are medians over the rounds,
and ratios within a round. benchmarks/peers/turn.py describes a turn.
"""

import argparse
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.bare_service import BareService
from benchmarks.harness.circumstances import write_result
from benchmarks.harness.workloads import WORKLOADS, Workload
from benchmarks.limits import Raw, best_way
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.own import OURS, Aaserve
from benchmarks.peers.peer import Peer, StartFailed
from benchmarks.peers.report import markdown, medians, plot
from benchmarks.peers.servers.reading import READERS
from benchmarks.peers.turn import Plan, Server, take_turn

SERVERS: dict[str, Server] = {server.name: server for server in (*OURS, BareService(), *PEERS.values())}
LINES = 20  # shown from the log of a server that did not start


def measure(workload: Workload, servers: list[Server], rounds: int, plan: Plan) -> dict[str, Any]:
    """Measure every round; return the rounds and their medians."""
    if workload.task != "classification":
        servers = [server for server in servers if isinstance(server, Aaserve)]  # the others only classify
    raw = Raw(workload)
    expected = raw.top_1()
    way, _ = best_way(raw, min(1.0, plan.seconds))
    done: list[dict[str, Any]] = []
    for number in range(rounds):
        one: dict[str, Any] = {"raw": {"per_second": round(raw.images_per_second(way, plan.seconds), 1)}}
        for server in servers:
            if isinstance(server, Aaserve) and (server.openvino or server.int8):
                with suppress(StartFailed):  # which is said where it takes its turn
                    one["raw"][server.name] = round(server.alone(workload, way, plan.seconds), 1)
        print(f"{workload.name} round {number + 1}: ONNX Runtime alone {one['raw']['per_second']:,.0f}", flush=True)
        for server in servers:
            one[server.name] = _turn(server, workload, expected, plan, seed=number)
            rates = [f"{key} {each['answered_per_second']:,.0f}" for key, each in one[server.name].items() if _is(each)]
            print(f"  {server.name}: {', '.join(rates) or str(one[server.name])[-2000:]}", flush=True)
        done.append(one)
    rate = sorted(one["raw"]["per_second"] for one in done)[len(done) // 2]
    return {
        "words": workload.words,
        "raw_per_second": rate,
        "raw_way": f"batch {way.batch}, {way.words}",
        "servers": medians(done),
        "rounds": done,
    }


def _is(level: object) -> bool:
    return isinstance(level, dict) and "answered_per_second" in level


def _turn(server: Server, workload: Workload, expected: list[int | None], plan: Plan, seed: int) -> dict[str, Any]:
    """Take one turn. A server that fails is reported, and the others continue."""
    try:
        return take_turn(server, workload, expected, plan, seed)
    except (StartFailed, OSError) as error:
        first, *log = str(error).splitlines()
        return {"failed": "\n".join([first, *log[-LINES:]])}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=["W1", "W2", "W3"], help="default: W1 W2 W3")
    add("--bundle", type=Path, help="NAME/VERSION folder to use as the model, with one workload")
    add("--servers", nargs="+", metavar="NAME", help=f"of {', '.join(SERVERS)} (default: all that are installed)")
    add("--install", action="store_true", help="first install missing peers: gigabytes")
    add("--rounds", type=int, default=5, help="turns per server (default: 5)")
    add("--seconds", type=float, default=8, help="duration of each load (default: 8)")
    add("--no-open-loops", action="store_true", help="closed loops only, which takes half the time")
    add("--read-with", choices=READERS, default="pillow", help="how the peers read pictures (default: pillow)")
    add(
        "--output",
        type=Path,
        default=Path("runs/peers.json"),
        help="JSON file (default: runs/peers.json); .md and .png beside it",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.servers or ()) - set(SERVERS):
        parser.error(f"no such server: {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}")
    workloads = [WORKLOADS[name] for name in arguments.workloads]
    if (bundle := arguments.bundle) is not None:
        if len(workloads) != 1:
            parser.error("--bundle: expected one workload")
        workloads = [replace(workloads[0], words=f"{workloads[0].words}, with {bundle}", bundle=lambda: bundle)]
    chosen = [
        replace(server, reader=arguments.read_with) if isinstance(server, Peer) else server
        for server in (SERVERS[name] for name in arguments.servers or SERVERS)
    ]
    if arguments.install or arguments.servers:
        for server in chosen:
            server.install()
    servers = [server for server in chosen if server.installed]
    plan = Plan(arguments.seconds, open_loops=not arguments.no_open_loops)
    found: dict[str, Any] = {}
    for workload in workloads:
        found[workload.name] = measure(workload, servers, arguments.rounds, plan)
        # Written after each workload, so that an interrupted run keeps its results.
        write_result(
            arguments.output,
            {
                "servers": {server.name: server.version for server in servers},
                "peers_read_with": arguments.read_with,
                "not_installed": [server.name for server in chosen if not server.installed],
                "seconds": arguments.seconds,
                "workloads": found,
            },
            "onnxruntime",
            "pillow",
            "openvino",
            "cykooz-resizer",
            "fastapi",
            "uvicorn",
        )
    text = "\n\n".join(
        markdown(name, each["words"], each["raw_per_second"], each["servers"]) for name, each in found.items()
    )
    arguments.output.with_suffix(".md").write_text(text + "\n")
    plot(arguments.output.with_suffix(".png"), found)
    print(text)
    failed = any("failed" in each or "disagrees" in each for one in found.values() for each in one["servers"].values())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
