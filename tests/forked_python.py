"""`python` for our commands, without a new interpreter: forked from one that has imported PyTorch and more already.

    python -m export … --arguments, open files--> server --fork--> handler --fork--> the module, in the caller's folder
                       <------------- exit status -----------------

The imports take most of the processor time of such a command. Only other people's packages are imported before the
fork, never ours, which the command imports from its own folder. Networks are traced once for all of them, and for the
tests of the exporter: see tests/traces.py. Models are tried once too: see tests/tried_models.py. Run as a script: the
server.
"""

import importlib.util
import json
import logging
import multiprocessing
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Not onnxruntime: what of ours imports it sets its telemetry first.
PRELOADED = (
    *("torch.export", "torch.onnx._internal.exporter._core", "onnxscript", "pydantic", "rich.progress"),
    *("fastapi", "PIL.Image", "prometheus_client", "pydantic_settings", "uvicorn", "uvicorn.loops.auto"),
)
LARGEST_REQUEST = 1_000_000  # bytes
CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys
arguments = sys.argv[1:]
if arguments[:1] == ["-u"]:  # as torchrun starts it
    del arguments[0]
module = arguments[1] if arguments[:1] == ["-m"] else arguments[0] if arguments else None
if module not in ("-", *{modules}):
    os.execv({python!r}, [{python!r}, *arguments])
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
request = {{"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
connection.shutdown(socket.SHUT_WR)
answers = connection.makefile()
process = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(process, number))
status = int(answers.readline())
sys.exit(status if status >= 0 else 128 - status)
"""
MODULES = (
    "aaserve",
    "benchmarks.gpu",
    "benchmarks.harness.random_bundles",
    "export",
    "models",
    "service",
    "torch.distributed.run",
    "training",
)


@contextmanager
def forked_python(folder: Path) -> Iterator[Path]:
    """A `python` in `folder` that forks for MODULES and for a script on stdin, and is the real one for all else."""
    with socket.socket(socket.AF_UNIX) as listening:
        address = str(folder / "socket")
        listening.bind(address)
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, "-P", __file__, str(listening.fileno())],
            stdin=subprocess.PIPE,  # never written to; it ends when this process ends
            pass_fds=[listening.fileno()],
        )
    client = folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, modules=MODULES, address=address))
    client.chmod(0o755)
    try:
        yield client
    finally:
        server.stdin.close()  # type: ignore[union-attr]
        server.wait()


def _serve(listening: socket.socket) -> None:
    for name in PRELOADED:
        __import__(name)
    _share_traces()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # handlers are not waited for
    while listening in select.select([listening, sys.stdin], [], [])[0]:
        connection, _ = listening.accept()
        if not os.fork():
            listening.close()
            _handle(connection)
            os._exit(0)
        connection.close()


def _share_traces() -> None:
    traces = _beside("traces")
    traces.torch.onnx.export = traces.Traces().export


def _share_verdicts() -> None:
    tried_models = _beside("tried_models")
    if folder := os.environ.get(tried_models.FOLDER):
        tried_models.Trials.check = tried_models.remembered(Path(folder))


def _beside(name: str) -> Any:
    """Not as `tests.name`: a command has the packages of its own folder."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _handle(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    content, files, *_ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
    while piece := connection.recv(LARGEST_REQUEST):
        content += piece
    process = multiprocessing.get_context("fork").Process(target=_run, args=(json.loads(content), files))
    process.start()
    for file in files:
        os.close(file)
    connection.sendall(f"{process.pid}\n".encode())
    process.join()
    connection.sendall(f"{process.exitcode}\n".encode())


def _run(request: dict[str, Any], files: list[int]) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0)  # noqa: SIM115  (multiprocessing has closed it)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = [request["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    first, *arguments = request["arguments"]
    if first == "-m":
        if arguments[0] == "service" or arguments[:2] == ["aaserve", "serve"]:
            _share_verdicts()
        sys.argv = arguments
        try:
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        finally:
            logging.shutdown()  # a fork ends without what atexit would run
    else:
        sys.argv = [first, *arguments]
        script = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), vars(script))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
