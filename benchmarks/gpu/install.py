"""python -m benchmarks.gpu.install FOLDER ARCHIVE: on the bare machine, from FOLDER, without a network.

    ARCHIVE (or its parts) --> wheels --pip, --no-index--> this Python
    with ONNX Runtime in it: does the shipped bundle load on the card?

Installed into the Python that has PyTorch, because ONNX Runtime looks for CUDA and cuDNN beside itself. Its CPU build,
which has the same import name, goes first. Needs nothing but the standard library.
"""

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path

from aaserve.training.parts import join

# In a process of its own, because this one has not seen what was just installed.
CHECK = """
import aaserve.bundle.telemetry, onnxruntime
from pathlib import Path
from aaserve.bundle.bundle import open_bundle
from aaserve.service.engine.session import OnnxSession
from aaserve.service.settings import Settings
import aaserve.service.http.app
shipped = open_bundle(Path("model_repository/aa-cifar100/1"))
session = OnnxSession(shipped, Settings(provider={provider!r}))
session.warm_up()
print("onnxruntime", onnxruntime.__version__, "runs the shipped bundle on", session.provider)
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.install", description="Install an archive's wheels."
    )
    parser.add_argument("folder", type=Path, help="where the archive is, or its parts")
    parser.add_argument("archive", help="its name")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="to try afterwards (default: cuda)")
    arguments = parser.parse_args()
    wheels = unpack(arguments.folder / arguments.archive)
    onnxruntime = any(path.name.startswith("onnxruntime_gpu-") for path in wheels)
    if onnxruntime:
        pip("uninstall", "--yes", "--quiet", "onnxruntime")
    # --no-deps: what is not among the wheels is there, in whatever version, and nothing could be fetched anyway.
    options = ("--quiet", "--no-index", "--no-deps", "--no-cache-dir", "--no-compile", "--upgrade")
    pip("install", *options, *map(str, wheels))
    if not onnxruntime:
        return 0
    return subprocess.run([sys.executable, "-c", CHECK.format(provider=arguments.provider)]).returncode


def unpack(archive: Path) -> list[Path]:
    """The wheels in it."""
    if not archive.exists():
        join(archive)
    folder = archive.with_name(f"{archive.name}.wheels")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return sorted(folder.glob("*.whl"))


def pip(*arguments: str) -> None:
    """Run this Python's pip, or end with its status."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments])
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
