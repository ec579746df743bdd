"""LitServe: batches, a worker of one thread for every core, and as many HTTP servers as LitServe makes of that.

https://lightning.ai/docs/litserve/features/batching, https://lightning.ai/docs/litserve/api-reference/litserver. A
batch_timeout of 0 is not an option: an idle worker then polls its queue without pause. fast_queue=True, which the
documentation advises for many requests, has no effect in this version (Lightning-AI/LitServe#751).
"""

import base64
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.servers.classifier import CORES, PORT, Classifier

MAX_BATCH_SIZE = 8


class Classify(litserve.LitAPI):
    """Picture in base64 --> answer."""

    def setup(self, device: str) -> None:
        self._classifier = Classifier(threads=1)
        self._classifier.warm_up(MAX_BATCH_SIZE)

    def decode_request(self, request: dict[str, str]) -> NDArray[Any]:
        return self._classifier.read(base64.b64decode(request["image"]))

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return self._classifier.run(x)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, Any]:
        return self._classifier.answer(output)


if __name__ == "__main__":
    api = Classify(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=CORES, timeout=60)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
