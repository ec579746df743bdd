"""Ray Serve: dynamic request batching, a replica of one thread for every core, HAProxy in front of them.

https://docs.ray.io/en/latest/serve/advanced-guides/performance.html (RAY_SERVE_THROUGHPUT_OPTIMIZED, async methods,
max_ongoing_requests above its default of 5), https://docs.ray.io/en/master/kuberay/user-guides/serve-high-throughput.html
(RAY_SERVE_ENABLE_HA_PROXY), https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html.
"""

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.servers.ports import spare_port

if __name__ == "__main__":  # before Ray is imported; what it starts inherits it
    folder = Path.cwd() / "haproxy"
    os.environ |= {
        "RAY_SERVE_HAPROXY_STATS_PORT": str(spare_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(spare_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
    }

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from benchmarks.peers.servers.classifier import CORES, PORT, Classifier

MAX_BATCH_SIZE = 8
OBJECT_STORE = 80_000_000  # bytes; Serve keeps no pictures there


@serve.deployment(num_replicas=CORES, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Classify:
    """Picture --> answer."""

    def __init__(self) -> None:
        self._classifier = Classifier(threads=1)
        self._classifier.warm_up(MAX_BATCH_SIZE)

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=0.005)
    async def classify(self, pictures: list[bytes]) -> list[dict[str, Any]]:
        return self._classifier.classify(pictures)

    async def __call__(self, request: Request) -> JSONResponse:
        return JSONResponse(await self.classify(await request.body()))


if __name__ == "__main__":
    ray.init(num_cpus=CORES, include_dashboard=False, _temp_dir=f"{Path.cwd()}/ray", object_store_memory=OBJECT_STORE)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Classify.bind(), route_prefix="/classify")
    while True:
        time.sleep(3600)
