"""python -m benchmarks.gpu.install FOLDER: on the bare machine, from the parts in FOLDER, without a network.

    wheels.tar.part-… --join--> wheels --pip, --no-index--> this Python --> does the shipped bundle load on the card?

Installed into the Python that has PyTorch, because ONNX Runtime looks for CUDA and cuDNN beside itself. Its CPU build,
which has the same import name, goes first. Needs nothing but the standard library.
"""

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path

from training.parts import join

ARCHIVE = "wheels.tar"
# In a process of its own, because this one has not seen what was just installed.
CHECK = """
import bundle.telemetry, onnxruntime
from pathlib import Path
from bundle.bundle import open_bundle
from service.session import OnnxSession
from service.settings import Settings
import service.app
shipped = open_bundle(Path("model_repository/aa-cifar100/1"))
session = OnnxSession(shipped, Settings(provider={provider!r}))
session.warm_up()
print("onnxruntime", onnxruntime.__version__, "runs the shipped bundle on", session.provider)
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.install", description="Install the parts' wheels.")
    parser.add_argument("folder", type=Path, help="where the parts are")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="to try afterwards (default: cuda)")
    arguments = parser.parse_args()
    wheels = unpack(arguments.folder)
    pip("uninstall", "--yes", "--quiet", "onnxruntime")
    # --no-deps: what is not among the wheels is there, in whatever version, and nothing could be fetched anyway.
    pip("install", "--quiet", "--no-index", "--no-deps", "--no-cache-dir", "--upgrade", *map(str, wheels))
    return subprocess.run([sys.executable, "-c", CHECK.format(provider=arguments.provider)]).returncode


def unpack(folder: Path) -> list[Path]:
    """The wheels of the parts in `folder`."""
    archive = folder / ARCHIVE
    if not archive.exists():
        join(archive)
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "wheels", filter="data")
    return sorted((folder / "wheels").glob("*.whl"))


def pip(*arguments: str) -> None:
    """Run this Python's pip, or end with its status."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments])
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
