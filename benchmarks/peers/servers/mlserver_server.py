"""MLServer: a custom runtime with adaptive batching, a worker of one thread for every core.

https://docs.seldon.ai/mlserver/user-guide/custom, https://docs.seldon.ai/mlserver/user-guide/adaptive-batching (its
values "usually found through experimentation"), https://docs.seldon.ai/seldon-core-2/user-guide/performance-tuning/models/inference
(parallel_workers in line with the cores). uvloop is pinned below 0.22, with which no worker starts.
"""

import json
import os
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.servers.classifier import CORES, PORT, TOP_K, Classifier
from benchmarks.peers.servers.ports import spare_port

MAX_BATCH_SIZE = 8


class Classify(MLModel):
    """Pictures in base64 (B, 1) --> label, class_index and score, each (B, TOP_K)."""

    async def load(self) -> bool:
        self._classifier = Classifier(threads=1)
        self._classifier.warm_up(MAX_BATCH_SIZE)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answers = self._classifier.classify(Base64Codec.decode_input(payload.inputs[0]))
        ranked = [one for answer in answers for one in answer["predictions"]]
        shape = [len(answers), TOP_K]
        labels = StringCodec.encode_output("label", [one["label"] for one in ranked])
        labels.shape = shape
        indices = np.array([one["class_index"] for one in ranked], np.int32).reshape(shape)
        scores = np.array([one["score"] for one in ranked], np.float32).reshape(shape)
        outputs = [labels, NumpyCodec.encode_output("class_index", indices), NumpyCodec.encode_output("score", scores)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


if __name__ == "__main__":
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": PORT,
        "grpc_port": spare_port(),
        "metrics_port": spare_port(),
        "parallel_workers": CORES,
    }
    model = {
        "name": "classify",
        "implementation": "benchmarks.peers.servers.mlserver_server.Classify",
        "max_batch_size": MAX_BATCH_SIZE,
        "max_batch_time": 0.005,
    }
    Path("settings.json").write_text(json.dumps(settings))
    Path("model-settings.json").write_text(json.dumps(model))
    os.execvp("mlserver", ["mlserver", "start", "."])
