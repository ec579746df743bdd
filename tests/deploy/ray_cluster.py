"""A Ray cluster of several nodes on one machine, and Serve's REST interface to it.

node = `ray start --block` and all that comes of it: a raylet, its agents, its proxy, its replicas
"""

import json
import os
import secrets
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import yaml

from tests.helpers import ROOT

RAYSERVICE = yaml.safe_load((ROOT / "deploy" / "ray" / "rayservice.yaml").read_text())["spec"]
ADDRESS = "127.0.0.1"
OBJECT_STORE = 80_000_000  # bytes; Serve keeps no pictures there
PATIENCE = 300.0  # seconds; a test that passes never waits so long


class Node:
    """One raylet and every process that it starts."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self._mark = f"RAY_TEST_NODE={name}-{os.getpid()}"
        self._command = command
        key, _, value = self._mark.partition("=")
        self._environment = {**os.environ, **environment, key: value}

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def runs(self) -> bool:
        """True, or an error: it ends by itself only when something is wrong."""
        if (status := self._process.poll()) is not None:
            raise RuntimeError(f"`{shlex.join(self._command)}` ended with status {status}")
        return True

    def kill(self) -> None:
        """Kill all of its processes at once, as when a machine fails."""
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
    """A head and workers on this machine.

    Args:
        folder: logs and sockets of all nodes; a short name, because the length of a socket's name is limited.
        environment: of every process.
        ports: gcs, dashboard and client of Ray, stats and metrics of HAProxy.
        ray: the command.
    """

    def __init__(
        self, folder: Path, environment: dict[str, str], *, workers: int, ports: dict[str, int], ray: Path
    ) -> None:
        self._token = secrets.token_hex(32)
        self._dashboard = f"http://{ADDRESS}:{ports['dashboard']}"
        address = f"{ADDRESS}:{ports['gcs']}"
        self.environment = {
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",  # Ray's own default as soon as its dashboard is not on localhost
            "RAY_AUTH_TOKEN": self._token,
            "RAY_ADDRESS": address,  # where `ray.init()` goes
            "RAY_idle_worker_killing_time_threshold_ms": "60000",  # else each task would start an interpreter
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports["stats"]),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports["metrics"]),
            **environment,
        }
        start = [str(ray), "start", "--block", "--disable-usage-stats", f"--object-store-memory={OBJECT_STORE}"]
        start += ["--include-log-monitor=False"]  # drivers do not show the logs of workers
        head = [
            "--head",
            f"--port={ports['gcs']}",
            f"--ray-client-server-port={ports['client']}",
            f"--temp-dir={folder}",
            "--no-monitor",  # nothing scales here
        ]
        head += [f"--dashboard-host={ADDRESS}", f"--dashboard-port={ports['dashboard']}", "--num-cpus=1"]
        join = [f"--address={address}", "--num-cpus=1"]
        self.nodes = [Node("head", [*start, *head], self.environment)]
        self.nodes += [Node(f"worker{worker}", [*start, *join], self.environment) for worker in range(workers)]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for number, node in enumerate(self.nodes, start=1):
                node.start()
                stack.callback(node.kill)
                # Nodes that start at the same time on one machine take each other's ports.
                self.wait_for(
                    lambda node=node, number=number: node.runs() and self._nodes() == number, f"node {number}"
                )
            self._end = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def deploy(self, config: dict[str, Any]) -> None:
        """Ask for this configuration, as KubeRay does; return once it is so and its nodes can be asked."""
        self._ask("PUT", config)
        self.url = f"http://{ADDRESS}:{config['http_options']['port']}"
        wanted = config["applications"][0]["deployments"][0].get("num_replicas")
        self.wait_for(lambda: self._deployed(wanted), "the deployment")

    def replicas(self) -> list[dict[str, Any]]:
        """Those that are running: node_ip, pid, replica_id."""
        deployments = self._application().get("deployments", {}).values()
        return [each for deployment in deployments for each in deployment["replicas"] if each["state"] == "RUNNING"]

    def wait_for(self, condition: Callable[[], object], words: str, seconds: float = PATIENCE) -> float:
        """Poll until `condition()`; the seconds it took."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"waited {seconds:.0f} s in vain for {words}")
            time.sleep(0.5)
        return time.monotonic() - started

    def _deployed(self, wanted: int | None) -> bool:
        application = self._application()
        if application.get("status") == "DEPLOY_FAILED":
            raise RuntimeError(application["message"])
        running = len(self.replicas())
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
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            message = f"Serve answers {error.code}: {error.read().decode(errors='replace')[:2000]}"
            raise (OSError if error.code >= 500 else RuntimeError)(message) from error  # or it is starting
