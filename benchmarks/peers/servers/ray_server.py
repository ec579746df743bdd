"""Ray Serve"""

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.servers.ports import spare_port

if __name__ == "__main__":  # before Ray reads it; what it starts inherits it
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(spare_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(spare_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{Path.cwd()}/haproxy/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{Path.cwd()}/haproxy/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{Path.cwd()}/haproxy",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{Path.cwd()}/haproxy/server-state",
    }

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from benchmarks.peers.servers.classifier import CORES, PORT, Classifier

MAX_BATCH_SIZE = 8


@serve.deployment(
    num_replicas=int(os.environ.get("T_WORKERS", CORES)), max_ongoing_requests=64, ray_actor_options={"num_cpus": 1}
)
class Classify:
    """Picture --> answer."""

    def __init__(self) -> None:
        self._classifier = Classifier(threads=int(os.environ.get("T_ORT", "1")))
        self._classifier.warm_up(MAX_BATCH_SIZE)

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=float(os.environ.get("T_WAIT", "0.005")))
    async def classify(self, pictures: list[bytes]) -> list[dict[str, Any]]:
        return self._classifier.classify(pictures)

    async def __call__(self, request: Request) -> JSONResponse:
        return JSONResponse(await self.classify(await request.body()))


if __name__ == "__main__":
    ray.init(num_cpus=CORES, include_dashboard=False, _temp_dir=str(Path.cwd() / "ray"), object_store_memory=80_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Classify.bind(), route_prefix="/classify")
    while True:
        time.sleep(3600)
