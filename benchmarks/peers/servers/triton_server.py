"""Triton"""

import os
import sys
import sysconfig
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.servers.classifier import CORES, PORT, Classifier
from benchmarks.peers.servers.ports import spare_port

MAX_BATCH_SIZE = 8
OUTPUTS = {
    "label": ("TYPE_STRING", np.object_),
    "class_index": ("TYPE_INT32", np.int32),
    "score": ("TYPE_FP32", np.float32),
}


class TritonPythonModel:
    """Requests with pictures (B, 1) --> responses with label, class_index and score, each (B, 5)."""

    def initialize(self, args: dict[str, Any]) -> None:
        self._classifier = Classifier(threads=1)
        self._classifier.warm_up(MAX_BATCH_SIZE)

    def execute(self, requests: list[Any]) -> list[Any]:
        import triton_python_backend_utils as triton  # only where Triton runs this

        groups = [triton.get_input_tensor_by_name(request, "image").as_numpy().ravel().tolist() for request in requests]
        answers = iter(self._classifier.classify([picture for group in groups for picture in group]))
        responses = []
        for group in groups:
            rows = [next(answers)["predictions"] for _ in group]
            tensors = [
                triton.Tensor(name, np.array([[one[name] for one in row] for row in rows], kind))
                for name, (_, kind) in OUTPUTS.items()
            ]
            responses.append(triton.InferenceResponse(output_tensors=tensors))
        return responses


CONFIG = f"""
backend: "python"
max_batch_size: {MAX_BATCH_SIZE}
dynamic_batching {{ {os.environ.get("T_DYN", "")} }}
instance_group [ {{ count: {os.environ.get("T_WORKERS", CORES)}, kind: KIND_CPU }} ]
input [ {{ name: "image", data_type: TYPE_STRING, dims: [ 1 ] }} ]
output [ {", ".join(f'{{ name: "{name}", data_type: {kind}, dims: [ 5 ] }}' for name, (kind, _) in OUTPUTS.items())} ]
"""


if __name__ == "__main__":
    model = Path("models/classify/1/model.py")
    model.parent.mkdir(parents=True)
    # Its interpreter is the system's and knows neither PYTHONPATH nor this environment.
    model.write_text(f"import sys\nsys.path[:0] = {sys.path!r}\nfrom {__spec__.name} import TritonPythonModel\n")
    (model.parent.parent / "config.pbtxt").write_text(CONFIG)
    wheel = Path(str(files("pytriton"))) / "tritonserver"
    stub = next((wheel / "python_backend_stubs").glob(sysconfig.get_python_version()))
    backends = Path("backends/python")
    backends.mkdir(parents=True)
    for file in (*(wheel / "backends" / "python").iterdir(), *stub.iterdir()):
        (backends / file.name).symlink_to(file)
    options = {
        "model-repository": "models",
        "backend-directory": "backends",
        "http-address": "127.0.0.1",
        "http-port": PORT,
        "metrics-port": spare_port(),
        "allow-grpc": "false",
        "log-verbose": 0,
        "log-info": "false",
    }
    server = wheel / "bin" / "tritonserver"
    os.execv(server, [server, *(f"--{name}={value}" for name, value in options.items())])
