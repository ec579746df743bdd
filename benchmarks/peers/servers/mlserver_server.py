"""MLServer: a custom runtime."""

import json
import os
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.servers.classifier import CORES, PORT, Classifier
from benchmarks.peers.servers.ports import spare_port

MAX_BATCH_SIZE = 8


class Classify(MLModel):
    """Pictures in base64 (B, 1) --> label, class_index and score, each (B, 5)."""

    async def load(self) -> bool:
        self._classifier = Classifier(threads=1)
        self._classifier.warm_up(MAX_BATCH_SIZE)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answers = self._classifier.classify(Base64Codec.decode_input(payload.inputs[0]))
        rows = [answer["predictions"] for answer in answers]
        columns = {name: [[one[name] for one in row] for row in rows] for name in ("label", "class_index", "score")}
        labels = StringCodec.encode_output("label", [label for row in columns["label"] for label in row])
        labels.shape = [len(rows), len(rows[0])]
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                labels,
                NumpyCodec.encode_output("class_index", np.array(columns["class_index"], np.int32)),
                NumpyCodec.encode_output("score", np.array(columns["score"], np.float32)),
            ],
        )


if __name__ == "__main__":
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": PORT,
        "grpc_port": spare_port(),
        "metrics_port": spare_port(),
        "parallel_workers": int(os.environ.get("T_WORKERS", CORES)),
    }
    model = {
        "name": "classify",
        "implementation": "benchmarks.peers.servers.mlserver_server.Classify",
        "max_batch_size": MAX_BATCH_SIZE,
        "max_batch_time": float(os.environ.get("T_WAIT", "0.005")),
    }
    Path("settings.json").write_text(json.dumps(settings))
    Path("model-settings.json").write_text(json.dumps(model))
    os.execvp("mlserver", ["mlserver", "start", "."])
