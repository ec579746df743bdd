"""Triton Inference Server with its Python backend: dynamic batching without delay, an instance of one thread a core.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/batcher.html ("Recommended
Configuration Process": start from the default, no delay), https://github.com/triton-inference-server/server/blob/main/docs/user_guide/optimization.md
(dynamic batcher and instances together). Requests are raw binary ones: the picture is the body, no base64, no JSON.

The server is the one of the wheel of PyTriton; it runs without a GPU. Triton's own ONNX Runtime backend is not in there
(only in the containers of nvcr.io), so ONNX Runtime runs in the Python backend, where the preprocessing runs anyway.
"""

import os
import sys
import sysconfig
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.servers.classifier import CORES, PORT, TOP_K, Classifier
from benchmarks.peers.servers.ports import spare_port

MAX_BATCH_SIZE = 8
KINDS = {"label": np.object_, "class_index": np.int32, "score": np.float32}
CONFIG = f"""
backend: "python"
max_batch_size: {MAX_BATCH_SIZE}
dynamic_batching {{ }}
instance_group [ {{ count: {CORES}, kind: KIND_CPU }} ]
input [ {{ name: "image", data_type: TYPE_STRING, dims: [ 1 ] }} ]
output [
  {{ name: "label", data_type: TYPE_STRING, dims: [ {TOP_K} ] }},
  {{ name: "class_index", data_type: TYPE_INT32, dims: [ {TOP_K} ] }},
  {{ name: "score", data_type: TYPE_FP32, dims: [ {TOP_K} ] }}
]
"""


class TritonPythonModel:
    """Requests with pictures (B, 1) --> responses with label, class_index and score, each (B, TOP_K)."""

    def initialize(self, args: dict[str, Any]) -> None:
        self._classifier = Classifier(threads=1)
        self._classifier.warm_up(MAX_BATCH_SIZE)

    def execute(self, requests: list[Any]) -> list[Any]:
        import triton_python_backend_utils as triton  # there is one only where Triton runs this

        groups = [triton.get_input_tensor_by_name(request, "image").as_numpy().ravel().tolist() for request in requests]
        answers = iter(self._classifier.classify([picture for group in groups for picture in group]))
        responses = []
        for group in groups:
            rows = [next(answers)["predictions"] for _ in group]
            tensors = [
                triton.Tensor(name, np.array([[one[name] for one in row] for row in rows], kind))
                for name, kind in KINDS.items()
            ]
            responses.append(triton.InferenceResponse(output_tensors=tensors))
        return responses


if __name__ == "__main__":
    model = Path("models/classify/1/model.py")
    model.parent.mkdir(parents=True)
    # The backend has an interpreter of its own, which knows neither PYTHONPATH nor this environment.
    model.write_text(f"import sys\nsys.path[:0] = {sys.path!r}\nfrom {__spec__.name} import TritonPythonModel\n")
    (model.parent.parent / "config.pbtxt").write_text(CONFIG)
    wheel = Path(str(files("pytriton"))) / "tritonserver"
    backend = Path("backends/python")
    backend.mkdir(parents=True)
    stub = wheel / "python_backend_stubs" / sysconfig.get_python_version()
    for file in (*(wheel / "backends" / "python").iterdir(), *stub.iterdir()):
        (backend / file.name).symlink_to(file)
    options = {
        "model-repository": "models",
        "backend-directory": "backends",
        "http-address": "127.0.0.1",
        "http-port": PORT,
        "metrics-port": spare_port(),
        "allow-grpc": "false",
        "log-info": "false",
    }
    server = wheel / "bin" / "tritonserver"
    os.execv(server, [server, *(f"--{name}={value}" for name, value in options.items())])
