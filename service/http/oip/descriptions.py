"""What the protocol says of a server and its models, as its clients parse it; `config` and `stats` are Triton's."""

from typing import Any

from aaserve.service.engine.predictor import Predictor
from aaserve.service.engine.runtime.openvino_session import PROVIDER
from aaserve.service.engine.statistics import Duration, Statistics
from aaserve.service.http.oip.view import BYTES, TensorSpec, View
from aaserve.service.version import VERSION

_ONNX_RUNTIME, _OPENVINO = "onnxruntime_onnx", "openvino_onnx"
_STAGES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
_NONE = {"count": 0, "ns": 0}

Json = dict[str, Any]


def server_metadata() -> Json:
    extensions = ["classification", "model_configuration", "model_repository", "binary_tensor_data"]
    return {"name": "aaserve", "version": VERSION, "extensions": [*extensions, "parameters", "statistics"]}


def model_metadata(view: View, predictor: Predictor, versions: list[str]) -> Json:
    return {
        "name": view.name,
        "versions": versions,
        "platform": _platform(predictor),
        "inputs": [_metadata(view.input)],
        "outputs": [_metadata(spec) for spec in view.outputs],
    }


def model_config(view: View, predictor: Predictor, *, max_rows: int) -> Json:
    """Describe the model as Triton's model configuration.

    Args:
        max_rows: of one request; the scheduler splits and joins requests into calls of its own preferred size.
    """
    layout = "FORMAT_NONE" if view.pictures else f"FORMAT_{view.manifest.input.layout}"
    kind = "KIND_CPU" if predictor.on_cpu else "KIND_GPU"
    return {
        "name": view.name,
        "platform": _platform(predictor),
        "backend": _platform(predictor).partition("_")[0],
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_rows,
        "input": [{**_config(view.input), "format": layout, "is_shape_tensor": False, "optional": False}],
        "output": [{**_config(spec), "is_shape_tensor": False} for spec in view.outputs],
        "instance_group": [{"name": view.manifest.name, "kind": kind, "count": 1}],
        "dynamic_batching": {
            "preferred_batch_size": [predictor.runner.max_rows],
            "max_queue_delay_microseconds": round(predictor.settings.max_queue_delay_ms * 1000),
        },
    }


def _platform(predictor: Predictor) -> str:
    return _OPENVINO if predictor.provider == PROVIDER else _ONNX_RUNTIME


def model_statistics(view: View, statistics: Statistics) -> Json:
    """Describe what the network has done, for all of its names and addresses together."""
    return {
        "name": view.name,
        "version": view.manifest.version,
        "last_inference": statistics.last_inference_ms,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": {
            **{stage: _duration(getattr(statistics, stage)) for stage in _STAGES},
            "cache_hit": _NONE,
            "cache_miss": _NONE,
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": {"count": calls.count, "ns": 0},  # part of compute_infer
                "compute_infer": _duration(calls),
                "compute_output": {"count": calls.count, "ns": 0},
            }
            for rows, calls in sorted(statistics.executions.copy().items())
        ],
        "memory_usage": [],
    }


def _metadata(spec: TensorSpec) -> Json:
    return {"name": spec.name, "datatype": spec.datatype, "shape": [-1, *spec.shape]}


def _config(spec: TensorSpec) -> Json:
    """Triton has another word for BYTES, and leaves the batch axis out."""
    datatype = "STRING" if spec.datatype == BYTES else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape)}


def _duration(duration: Duration) -> Json:
    return {"count": duration.count, "ns": round(duration.seconds * 1e9)}
