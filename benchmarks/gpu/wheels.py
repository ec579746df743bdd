"""python -m benchmarks.gpu.wheels [--work runs/gpu]: the local half. Downloads what a bare machine lacks, in parts.

    PyPI --pip download--> WORK/wheels/ --> WORK/parts/wheels.tar.part-001, … of a size that one call carries

Then prints the calls of the device tool, in order. That machine has Python 3.12, PyTorch 2.11 for CUDA 13 with CUDA and
cuDNN beside it, and no network. Versions are those of constraints.txt and constraints-gpu.txt.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.circumstances import ROOT
from training.parts import MIB, split

# What that machine has not, or may have in another version than was tested; onnxruntime-gpu is 256 MB of it.
NAMES = (
    "annotated-doc",
    "annotated-types",
    "anyio",
    "cykooz-resizer",
    "fastapi",
    "h11",
    "httptools",
    "nvidia-ml-py",
    "onnx-ir",
    "onnxruntime-gpu",
    "onnxscript",
    "opentelemetry-api",  # FastAPI's
    "pillow",
    "prometheus_client",
    "pydantic",
    "pydantic-settings",
    "pydantic_core",
    "python-dotenv",
    "python-multipart",
    "starlette",
    "typing-inspection",
    "typing_extensions",
    "uvicorn",
    "uvloop",
)
TARGET = ("--python-version", "3.12", "--implementation", "cp")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
PART_MIB = 48  # a call carries 64 MiB, the working tree included
ARCHIVE = "wheels.tar"
THERE = "/tmp/aaserve"  # on that machine, outside of the working tree, which each call writes anew
STEPS_CALL = (
    "timeout 560 python3 -m benchmarks.gpu --device cuda --max-minutes {minutes}; "
    'status=$?; cp runs/gpu/results/*.json "$OUT"; exit $status'
)


def pinned() -> list[str]:
    """NAME==VERSION of each.

    Raises:
        ValueError: one is not pinned.
    """
    text = (ROOT / "constraints.txt").read_text() + (ROOT / "constraints-gpu.txt").read_text()
    found = []
    for name in NAMES:
        line = re.search(rf"^{re.escape(name)}==\S+$", text, re.MULTILINE)
        if line is None:
            raise ValueError(f"{name} is not pinned in constraints.txt or constraints-gpu.txt")
        found.append(line[0])
    return found


def download(folder: Path) -> None:
    """Fetch the wheels for that machine, or stop with pip's own words."""
    platforms = [part for name in PLATFORMS for part in ("--platform", f"{name}_x86_64")]
    command = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *TARGET, *platforms]
    done = subprocess.run([sys.executable, "-m", *command, "--dest", str(folder), *pinned()])
    if done.returncode:
        raise SystemExit("error: pip found not all of them")


def pack(wheels: Path, parts: Path, part_bytes: int) -> list[Path]:
    """Put all wheels into one archive and cut it; the list of the parts comes first."""
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    archive = parts / ARCHIVE
    with tarfile.open(archive, "w") as tar:
        for wheel in sorted(wheels.glob("*.whl")):
            tar.add(wheel, wheel.name)
    found = split(archive, part_bytes)
    archive.unlink()
    return found


def calls(listing: Path, parts: list[Path]) -> list[tuple[list[str], str]]:
    """What to carry and what to run, call by call; the last is repeated as long as it ends with 75."""
    found = []
    for number, part in enumerate(parts, start=1):
        carried = [part] if number < len(parts) else [part, listing]
        names = [str(path.relative_to(ROOT)) for path in carried]
        command = f"mkdir -p {THERE} && cp {' '.join(names)} {THERE}/"
        if number == len(parts):
            command += f" && python3 -m benchmarks.gpu.install {THERE} && {{ {STEPS_CALL.format(minutes=5)}; }}"
        found.append((names, command))
    return [*found, ([], STEPS_CALL.format(minutes=7))]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.wheels", description="Wheels for a bare GPU machine, in parts."
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gpu", help="folder, below the repository")
    work = parser.parse_args().work.resolve()
    wheels = work / "wheels"
    download(wheels)
    for wheel in sorted(wheels.glob("*.whl")):
        print(f"{wheel.stat().st_size / 1e6:9.2f} MB  {wheel.name}")
    listing, *parts = pack(wheels, work / "parts", PART_MIB * MIB)
    print(f"\n{len(parts)} parts in {parts[0].parent}. The calls, each within 30 s of the one before:\n")
    for names, command in calls(listing, parts):
        print(f"carry   {names}\ncommand {command}\n")
    print("The last one again and again while it ends with 75; each time the files from $OUT are the results so far.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
