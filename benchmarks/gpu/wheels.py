"""python -m benchmarks.gpu.wheels [--work runs/gpu]: the local half. Downloads what a bare machine lacks, in parts.

    PyPI --pip download--> WORK/wheels/ --> WORK/parts/python.tar, onnxruntime.tar.xz.part-001, …

Then prints the calls of the device tool, in order. That machine has Python 3.12, PyTorch 2.11 for CUDA 13 with CUDA and
cuDNN beside it, and no network. Versions are those of constraints.txt and constraints-gpu.txt. Of the CUDA library only
the machine code of Hopper cards travels (benchmarks/gpu/cubins.py): two calls in the place of six.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from aaserve.training.parts import MIB, split
from benchmarks.circumstances import ROOT
from benchmarks.gpu.cubins import blank

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
CUDA_LIBRARY = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
ARCHITECTURE = 90  # Hopper
PART_MIB = 12
CALL_MIB = 48  # a call carries 64 MiB, the working tree included
PYTHON, ONNXRUNTIME = "python.tar", "onnxruntime.tar.xz"  # the latter is large, and is worth nothing before it is whole
THERE = "/tmp/aaserve"  # on that machine, outside of the working tree, which each call writes anew
INSTALL_CALL = f"python3 -m benchmarks.gpu.install {THERE}"
# In sessions of their own they go on between the calls, while nothing is measured.
PREPARE_CALL = " && ".join(
    f"{{ setsid python3 -m benchmarks.gpu.prepare {what} > {THERE}/{what}.log 2>&1 & }}"
    for what in ("bundles", "compiled")
)
# In brackets, so that neither finds the shell whose command line this is.
WAIT_CALL = "while pgrep -f '[b]enchmarks.gpu.prepare bundles' > /dev/null; do sleep 1; done"
STOP_CALL = "pkill -f '[b]enchmarks.gpu.prepare'"
STEPS_CALL = (
    "timeout 560 python3 -m benchmarks.gpu {steps} --device cuda --max-minutes 7; "
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
    """Put all wheels into two archives, the larger one cut into parts; in the order in which they are to be carried."""
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    large = next(wheels.glob("onnxruntime_gpu-*.whl"))
    with tarfile.open(parts / PYTHON, "w") as tar:
        for wheel in sorted(wheels.glob("*.whl")):
            if wheel != large:
                tar.add(wheel, wheel.name)
    slim, archive = parts / large.name, parts / ONNXRUNTIME
    write_slim(large, slim)
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(slim, slim.name)
    listing, *cut = split(archive, part_bytes)
    slim.unlink()
    archive.unlink()
    return [parts / PYTHON, listing, *cut]


def write_slim(wheel: Path, target: Path) -> None:
    """The same wheel for one kind of card, its files stored as they are, for a better compression than a wheel's."""
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as slim:
        for name in source.namelist():
            content = bytearray(source.read(name))
            if name == CUDA_LIBRARY:
                blank(content, ARCHITECTURE)
            slim.writestr(name, bytes(content))


def calls(files: list[Path]) -> list[tuple[list[str], str]]:
    """What to carry and what to run, call by call; the last is repeated as long as it ends with 75."""
    carried: list[list[Path]] = [[]]
    for path in files:
        if sum(one.stat().st_size for one in (*carried[-1], path)) > CALL_MIB * MIB:
            carried.append([])
        carried[-1].append(path)
    found = []
    for number, paths in enumerate(carried):
        names = [str(path.relative_to(ROOT)) for path in paths]
        command = f"mkdir -p {THERE} && cp {' '.join(names)} {THERE}/"
        if number == 0:
            command += f" && {INSTALL_CALL} {PYTHON} && {PREPARE_CALL}"
        if number == len(carried) - 1:
            # Parity measures no time, so PyTorch's compiler may go on meanwhile.
            command += f" && {INSTALL_CALL} {ONNXRUNTIME} && {{ {WAIT_CALL}; {STEPS_CALL.format(steps='parity')}; }}"
        found.append((names, command))
    return [*found, ([], f"{STOP_CALL}; {STEPS_CALL.format(steps='')}")]


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
    parts = pack(wheels, work / "parts", PART_MIB * MIB)
    print(f"\n{len(parts)} files in {parts[0].parent}. The calls, each within 30 s of the one before:\n")
    for names, command in calls(parts):
        print(f"carry   {names}\ncommand {command}\n")
    print("The last one again and again while it ends with 75; each time the files from $OUT are the results so far.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
