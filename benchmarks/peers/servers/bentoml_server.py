"""BentoML: adaptive batching, a worker of one thread for every core.

https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html,
https://docs.bentoml.com/en/latest/build-with-bentoml/parallelize-requests.html (workers="cpu_count", which counts the
machine's cores, not those that it may use). max_latency_ms stays at its default: requests that might take longer are
refused, and a comparison is about those that are answered.
"""

import base64
import os
import sys
from typing import Any

import bentoml

from benchmarks.peers.servers.classifier import CORES, PORT, Classifier

MAX_BATCH_SIZE = 8


@bentoml.service(workers=CORES, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Classify:
    """Pictures in base64 --> answers."""

    def __init__(self) -> None:
        self._classifier = Classifier(threads=1)
        self._classifier.warm_up(MAX_BATCH_SIZE)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE)
    def classify(self, images: list[str]) -> list[dict[str, Any]]:
        return self._classifier.classify([base64.b64decode(image) for image in images])


if __name__ == "__main__":
    command = [sys.executable, "-m", "bentoml", "serve", "benchmarks.peers.servers.bentoml_server:Classify"]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(PORT)])
