"""mosec: one stage that decodes and infers, a process of one thread for every core, dynamic batching.

https://mosecorg.github.io/mosec/ ("Performance tuning"): bytes in as they are, without JSON around them; threads of
native libraries set by hand; max_wait_time below the time of a batch; 1 ms is the minimum.
"""

import os
from typing import Any

from mosec import Server, Worker

from benchmarks.peers.servers.classifier import CORES, PORT, Classifier

MAX_BATCH_SIZE = 8


class Classify(Worker):
    """Pictures --> answers; mosec's own JSON goes out."""

    def __init__(self) -> None:
        super().__init__()
        self._classifier = Classifier(threads=1)
        self._classifier.warm_up(MAX_BATCH_SIZE)

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: list[bytes]) -> list[dict[str, Any]]:
        return self._classifier.classify(data)


if __name__ == "__main__":
    os.environ.update(MOSEC_ADDRESS="127.0.0.1", MOSEC_PORT=str(PORT), MOSEC_TIMEOUT="60000", MOSEC_LOG_LEVEL="warning")
    server = Server()
    server.append_worker(Classify, num=CORES, max_batch_size=MAX_BATCH_SIZE, max_wait_time=1)
    server.run()
