"""Step: start, memory of the card, what an unloaded model gives back, and a call for which there is no memory.

The last is a made-up model that wants as many bytes as the first pixel's red says: its caller must get a 500, the
others their answers, and the service must live. On the CPU it is main memory that is not there.
"""

import hashlib
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aaserve.bundle.bundle import MODEL_FILE, REFERENCES_FILE, sha256_of, write_bundle
from aaserve.bundle.manifest import Input, Manifest, Output
from benchmarks.gpu.bundles import SHIPPED
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.gpu.serving import options
from tests.faults.running import HOST, Service, running, wait_until

SIDE, CLASSES = 8, 4
HUNGRY = 200  # a red from here on wants 16 TiB
KEY = "measured"


def run(plan: Plan, results: Results, work: Path) -> None:
    results.case("start", lambda: _start(plan, work))
    results.case("unload", lambda: _unload(plan, work))
    results.case("no memory for a call", lambda: _no_memory(plan))


def _start(plan: Plan, work: Path) -> dict[str, Any]:
    arguments = options(plan, work)
    started = time.monotonic()
    with running(*arguments) as service:
        return {
            "seconds_to_ready": time.monotonic() - started,
            "resident_bytes": service.memory("VmRSS"),
            "gpu_bytes": _gpu(service),
        }


def _unload(plan: Plan, work: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        keys.write_text(f"admin,metrics,infer {hashlib.sha256(KEY.encode()).hexdigest()}\n")
        repository = Path(folder) / "repository"
        arguments = options(plan, work)
        shutil.copytree(arguments[1], repository)
        write_hungry_bundle(repository)  # so that something is left to serve, and to tell of the card
        arguments[1] = str(repository)
        name = next(path.name for path in repository.iterdir() if path.name != "hungry")
        with running(*arguments, "--api-keys-file", str(keys)) as service:
            client = httpx.Client(
                base_url=f"http://{HOST}:{service.port}", headers={"Authorization": f"Bearer {KEY}"}, timeout=60
            )
            found = {"loaded": _memory(client, service)}
            client.post(f"/admin/models/{name}/unload").raise_for_status()
            wait_until(lambda: service.lines("is unloaded"))
            found["unloaded"] = _memory(client, service)
            client.post(f"/admin/models/{name}/load").raise_for_status()
            found["loaded again"] = _memory(client, service)
            client.close()
    return found


def _no_memory(plan: Plan) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_hungry_bundle(Path(folder))
        limit = ["--gpu-memory-bytes", str(2**30)] if plan.device == "cuda" else []
        with running("--repository", folder, "--provider", plan.device, *limit) as service:
            statuses = [_ask(service, red) for red in (0, HUNGRY, 0)]
            if statuses != [200, 500, 200] or not service.is_ready():
                raise AssertionError(f"expected 200, 500, 200 and a service that is ready, found {statuses}")
            return {"statuses": statuses, "reopened": service.metric("aaserve_model_reopened_total")}


def write_hungry_bundle(repository: Path) -> None:
    """hungry/1: logits are zeros as many as its first pixel's red says, summed up."""
    model = _graph().SerializeToString()
    files = {MODEL_FILE: model, REFERENCES_FILE: b"[]"}
    shipped = SHIPPED.manifest
    changed = {
        "name": "hungry",
        "version": "1",
        "architecture": "made up",
        "input": Input(name="image", dtype="uint8", layout="NHWC", shape=(SIDE, SIDE, 3)),
        "outputs": (Output(name="logits", dtype="float32", shape=(CLASSES,)),),
        "attention": (),
        "preprocessing": shipped.preprocessing.model_copy(update={"resize": SIDE, "crop": (SIDE, SIDE)}),
        "labels": tuple("abcd"),
        "files": {file: sha256_of(content) for file, content in files.items()},
        "parity": shipped.parity.model_copy(update={"attention_difference": None, "attention_tolerance": None}),
        "accuracy": None,
    }
    write_bundle(repository, Manifest.model_validate({**dict(shipped), **changed}), files, replace=True)


def _graph() -> onnx.ModelProto:
    wanted = np.where(np.arange(256) < HUNGRY, 1, 2**42)
    nodes = [
        helper.make_node("ReduceMax", ["image", "places"], ["red"], keepdims=0),  # of the whole batch
        helper.make_node("Cast", ["red"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["wanted", "index"], ["number"]),
        helper.make_node("Unsqueeze", ["number", "first"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "inner"], ["mean"], keepdims=0),  # (B,)
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),  # (B, 1)
        helper.make_node("Mul", ["column", "weights"], ["scaled"]),  # (B, classes)
        helper.make_node("Add", ["scaled", "nothing"], ["logits"]),
    ]
    constants = {
        "places": np.array([0, 1, 2, 3]),
        "inner": np.array([1, 2, 3]),
        "first": np.array([0]),
        "last": np.array([1]),
        "wanted": wanted,
        "weights": np.linspace(0, 0.01, CLASSES, dtype=np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "hungry",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _ask(service: Service, red: int) -> int:
    batch = [[[[red, 0, 0]] * SIDE] * SIDE]
    content = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3], "data": batch}]}
    url = f"http://{HOST}:{service.port}/v2/models/hungry/infer"
    return httpx.post(url, content=json.dumps(content), timeout=60).status_code


def _memory(client: httpx.Client, service: Service) -> dict[str, Any]:
    used = [
        float(line.rpartition(" ")[2])
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("aaserve_gpu_memory_used_bytes{")
    ]
    return {"resident_bytes": service.memory("VmRSS"), "gpu_bytes": used[0] if used else None}


def _gpu(service: Service) -> float | None:
    """Of the card, with all that is on it."""
    return next(iter(service.samples("aaserve_gpu_memory_used_bytes").values()), None)
