"""A Ray cluster of several nodes on one machine, and Serve's REST interface to it.

node = `ray start --block` and all that comes of it: a raylet, its agents, its proxy, its replicas
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent
NETWORK, BRIDGE = "10.77.0", "aaray"
OBJECT_STORE = 80_000_000  # bytes; Serve keeps no pictures there
PATIENCE = 120.0  # seconds


class Node:
    """One raylet. With a namespace it has an address of its own, as a machine has, and can be cut off."""

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], address: str, link: str | None
    ) -> None:
        self.address = address
        self._mark = f"BENCHMARK_NODE={name}-{os.getpid()}"
        self._link = link
        self._command = [*(["ip", "netns", "exec", link] if link else []), *command]
        key, _, value = self._mark.partition("=")
        self._environment = {**os.environ, **environment, key: value}

    def start(self) -> None:
        if self._link:
            _ip("link", "set", self._link, "up")
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def lose(self) -> None:
        """As when a machine fails: its packets stop first, so that nobody is told, then everything on it."""
        if self._link:
            _ip("link", "set", self._link, "down")
        while processes := self._processes():  # some start others
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self._process.wait()

    def _processes(self) -> list[int]:
        """What was started in our environment; Ray's daemons have sessions of their own."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found


class Cluster:
    """A head and workers; each but the head of a cluster apart has room for one replica.

    Args:
        folder: of all nodes' logs and sockets; a short name, because that of a socket is limited.
        environment: of every process.
        ports: gcs, dashboard and client of Ray, stats and metrics of HAProxy.
        apart: every node in a network namespace of its own, as if it were a machine; needs root.
        ray: the command.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *,
        workers: int,
        ports: dict[str, int],
        apart: bool,
        ray: Path = Path(sys.prefix) / "bin" / "ray",
    ) -> None:
        self._apart = apart
        self._token = secrets.token_hex(32)
        self.address = f"{NETWORK}.1" if apart else "127.0.0.1"
        self._dashboard = f"http://{self.address}:{ports['dashboard']}"
        environment = {
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",  # Ray's own default as soon as its dashboard is not on localhost
            "RAY_AUTH_TOKEN": self._token,
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports["stats"]),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports["metrics"]),
            **environment,
        }
        start = [str(ray), "start", "--block", "--disable-usage-stats", f"--object-store-memory={OBJECT_STORE}"]
        head = [
            "--head",
            f"--port={ports['gcs']}",
            f"--ray-client-server-port={ports['client']}",
            f"--temp-dir={folder}",
        ]
        head += [f"--dashboard-host={self.address}", f"--dashboard-port={ports['dashboard']}"]
        head.append(f"--num-cpus={0 if apart else 1}")
        join = [f"--address={self.address}:{ports['gcs']}", "--num-cpus=1"]
        self.nodes = [self._node(0, [*start, *head], environment)]
        self.nodes += [self._node(1 + worker, [*start, *join], environment) for worker in range(workers)]

    def _node(self, number: int, command: list[str], environment: dict[str, str]) -> Node:
        if not self._apart:
            return Node(f"node{number}", command, environment, self.address, None)
        address = f"{NETWORK}.{number + 1}"
        command = [*command, f"--node-ip-address={address}"]
        return Node(f"node{number}", command, environment, address, f"{BRIDGE}{number}")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._apart:
                _ip("link", "add", BRIDGE, "type", "bridge")
                stack.callback(_ip, "link", "delete", BRIDGE)
                _ip("address", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
                _ip("link", "set", BRIDGE, "up")
                for number, node in enumerate(self.nodes):
                    _join(f"{BRIDGE}{number}", node.address, stack)
            for number, node in enumerate(self.nodes, start=1):
                node.start()
                stack.callback(node.lose)
                # Nodes that start at the same time on one machine take each other's ports.
                self.wait_for(lambda number=number: self._nodes() == number, f"node {number}")
            self._end = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def deploy(self, config: dict[str, Any]) -> None:
        """Ask for this configuration, as KubeRay does; return once it is so and its nodes can be asked."""
        self._ask("PUT", config)
        self.url = f"http://{self.address}:{config['http_options']['port']}"
        wanted = config["applications"][0]["deployments"][0].get("num_replicas")
        everywhere = config["proxy_location"] == "EveryNode"
        self.wait_for(lambda: self._deployed(wanted, everywhere), "the deployment")

    def replicas(self) -> list[dict[str, Any]]:
        """Those that are running: node_ip, pid, replica_id."""
        deployments = self._application().get("deployments", {}).values()
        return [each for deployment in deployments for each in deployment["replicas"] if each["state"] == "RUNNING"]

    def entrances(self) -> list[str]:
        """Addresses of the nodes that have both a replica and a proxy that works."""
        proxies = self._details().get("proxies", {}).values()
        nodes = {proxy["node_id"] for proxy in proxies if proxy["status"] == "HEALTHY"}
        return [replica["node_ip"] for replica in self.replicas() if replica["node_id"] in nodes]

    def wait_for(self, condition: Callable[[], object], words: str, seconds: float = PATIENCE) -> float:
        """Poll until `condition()`; the seconds it took."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"waited {seconds:.0f} s in vain for {words}")
            time.sleep(0.2)
        return time.monotonic() - started

    def _deployed(self, wanted: int | None, everywhere: bool) -> bool:
        application = self._application()
        if application.get("status") == "DEPLOY_FAILED":
            raise RuntimeError(application["message"])
        running = len(self.entrances() if everywhere else self.replicas())
        return application.get("status") == "RUNNING" and running > 0 and wanted in (None, running)

    def _application(self) -> dict[str, Any]:
        return next(iter(self._details().get("applications", {}).values()), {})

    def _details(self) -> dict[str, Any]:
        """What Serve says of itself; nothing while its dashboard is busy or starting."""
        try:
            return self._ask("GET")
        except (OSError, ValueError):
            return {}

    def _nodes(self) -> int:
        """Nodes that are alive."""
        try:
            found = self._ask("GET", path="v0/nodes")["data"]["result"]["result"]
        except (OSError, ValueError):
            return 0
        return sum(node["state"] == "ALIVE" for node in found)

    def _ask(self, method: str, body: dict[str, Any] | None = None, path: str = "serve/applications/") -> Any:
        request = urllib.request.Request(
            f"{self._dashboard}/api/{path}",
            json.dumps(body).encode() if body else None,
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            message = f"Serve answers {error.code}: {error.read().decode(errors='replace')[:2000]}"
            raise (OSError if error.code >= 500 else RuntimeError)(message) from error  # or it is starting


def _join(link: str, address: str, stack: ExitStack) -> None:
    """A namespace with an address on the bridge."""
    _ip("netns", "add", link)
    stack.callback(_ip, "netns", "delete", link)
    _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", link)
    stack.callback(_ip, "link", "delete", link)  # else it lives for as long as the namespace takes to end
    _ip("link", "set", link, "master", BRIDGE, "up")
    _ip("-n", link, "address", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", link, "link", "set", "eth0", "up")
    _ip("-n", link, "link", "set", "lo", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
