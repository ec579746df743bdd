"""BentoML"""

import base64
import os
import sys
from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peers.servers.classifier import CORES, PORT, Classifier

MAX_BATCH_SIZE = 8
T = os.environ.get("T_FORM", "b64")
LAT = int(os.environ.get("T_WAIT", "1000"))


@bentoml.service(
    workers=int(os.environ.get("T_WORKERS", CORES)),
    threads=int(os.environ.get("T_THREADS", "1")),
    traffic={"timeout": 60},
)
class Classify:
    """Picture --> answer."""

    def __init__(self) -> None:
        self._classifier = Classifier(threads=int(os.environ.get("T_ORT", "1")))
        self._classifier.warm_up(MAX_BATCH_SIZE)

    if T == "b64":

        @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=LAT)
        def classify(self, images: list[str]) -> list[dict[str, Any]]:
            return self._classifier.classify([base64.b64decode(one) for one in images])
    elif T == "b64single":

        @bentoml.api
        def classify(self, image: str) -> dict[str, Any]:
            return self._classifier.classify([base64.b64decode(image)])[0]
    elif T == "path":

        @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=LAT)
        def classify(self, image: list[Path]) -> list[dict[str, Any]]:
            return self._classifier.classify([one.read_bytes() for one in images])
    elif T == "rawpath":

        @bentoml.api
        def classify(self, image: Path, /) -> dict[str, Any]:
            return self._classifier.classify([image.read_bytes()])[0]


if __name__ == "__main__":
    command = [sys.executable, "-m", "bentoml", "serve", "benchmarks.peers.servers.bentoml_server:Classify"]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(PORT)])
