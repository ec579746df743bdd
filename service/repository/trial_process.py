"""python -m service.repository.trial_process: what service/repository/trials.py runs for one model.

stdin: a line of JSON, the model's bytes, those of one row --> loaded and run a few times --> status 0

An exception is no crash: the service meets the same one later, and reports it.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FATAL = 4  # of ONNX Runtime's severities


def main() -> None:
    with suppress(OSError):  # if memory runs out, this process goes and the service stays
        Path("/proc/self/oom_score_adj").write_text("1000")
    head: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    signal.alarm(head["seconds"])  # ends this process if the service was killed
    model = sys.stdin.buffer.read(head["model_bytes"])
    row = np.frombuffer(sys.stdin.buffer.read(), head["dtype"]).reshape(1, *head["shape"])
    with suppress(Exception):
        _run(model, row, head["input"])
    os._exit(0)  # a crash at the end would say nothing of the model's answers


def _run(model: bytes, row: np.ndarray[Any, Any], name: str) -> None:
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(FATAL)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    zeros = np.zeros_like(row)
    for batch in (zeros, row, np.concatenate([zeros, zeros])):  # the pair last: a graph may take one row only
        session.run(None, {name: batch})


if __name__ == "__main__":
    main()
