"""python -m service.repository.trial_process: what service/repository/trials.py runs for one model.

stdin: a line of JSON, the model's bytes, those of one row --> loaded and run a few times --> status 0

An exception is no crash: the service meets the same one later, and reports it.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from aaserve.service.engine.runtime import openvino_runtime

Run = Callable[["np.ndarray[Any, Any]"], object]
FATAL = 4  # of ONNX Runtime's severities


def main() -> None:
    with suppress(OSError):  # if memory runs out, this process goes and the service stays
        Path("/proc/self/oom_score_adj").write_text("1000")
    head: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    signal.alarm(head["seconds"])  # ends this process if the service was killed
    model = sys.stdin.buffer.read(head["model_bytes"])
    row = np.frombuffer(sys.stdin.buffer.read(), head["dtype"]).reshape(1, *head["shape"])
    with suppress(Exception):
        run = _openvino(model, head) if head["provider"] == "openvino" else _onnxruntime(model, head)
        zeros = np.zeros_like(row)
        for batch in (zeros, row, np.concatenate([zeros, zeros])):  # the pair last: a graph may take one row only
            run(batch)
    os._exit(0)  # a crash at the end would say nothing of the model's answers


def _onnxruntime(model: bytes, head: dict[str, Any]) -> Run:
    import onnxruntime  # here, as only one of both is needed

    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(FATAL)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {head["input"]: batch})


def _openvino(model: bytes, head: dict[str, Any]) -> Run:
    compiled = openvino_runtime.compiled(model, precision=head["cpu_precision"], streams=1, threads=1)
    return lambda batch: compiled.infer_new_request({head["input"]: batch})


if __name__ == "__main__":
    main()
