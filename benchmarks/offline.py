"""python -m benchmarks.offline [--workloads W1s W3] [--pictures N] [--rounds R] [--seconds S] --output FILE

`aaserve classify` on N files, over ONNX Runtime alone, called in the way that is fastest here (benchmarks/limits.py).
Each round measures the runtime, the files and the runtime again: the second over the first shows what a ratio of equals
differs by. The model is open before the clock starts.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from aaserve.service.errors import ServiceError
from aaserve.service.offline.classifier import OfflineClassifier, open_classifier
from aaserve.service.settings import Settings
from benchmarks.circumstances import write_result
from benchmarks.limits import Raw, Way, best_way
from benchmarks.workloads import WORKLOADS, Workload


def write_pictures(workload: Workload, count: int, folder: Path) -> list[str]:
    """The workload's pictures as files, in rotation."""
    contents = workload.pictures()
    paths = [folder / f"{number:06}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(contents[number % len(contents)])
    return [str(path) for path in paths]


async def files_per_second(classifier: OfflineClassifier, paths: list[str]) -> float:
    """Pictures a second, from the first read to the last answer."""
    started = time.perf_counter()
    async for answer in classifier.answers(paths):
        if isinstance(answer.outcome, ServiceError):
            raise SystemExit(f"error: {answer.path}: {answer.outcome}")
    return len(paths) / (time.perf_counter() - started)


async def rounds(workload: Workload, raw: Raw, way: Way, paths: list[str], count: int, seconds: float) -> list[dict]:
    """What each round measured, in images a second, and both ratios."""
    found = []
    async with open_classifier(Settings(repository=workload.bundle().parent.parent)) as classifier:
        for _ in range(count):
            before = raw.images_per_second(way, seconds)
            files = await files_per_second(classifier, paths)
            after = raw.images_per_second(way, seconds)
            mean = (before + after) / 2
            found.append({"runtime": before, "files": files, "runtime_again": after, "share": files / mean})
    return found


def measure(workload: Workload, pictures: int, count: int, seconds: float, console: Console) -> dict[str, object]:
    raw = Raw(workload)
    way, _ = best_way(raw, seconds)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(workload, pictures, Path(folder))
        found = asyncio.run(rounds(workload, raw, way, paths, count, seconds))
    share = statistics.median(each["share"] for each in found)
    identical = [each["runtime_again"] / each["runtime"] for each in found]
    console.print(
        f"{workload.name}: {share:.3f} of {statistics.median(each['runtime'] for each in found):,.1f} a second; "
        f"identical pair {min(identical):.3f} to {max(identical):.3f}"
    )
    return {
        "words": workload.words,
        "raw_way": f"batch {way.batch}, {way.words}",
        "share_of_raw": round(share, 3),
        "identical_pair": [round(each, 3) for each in identical],
        "rounds": [{name: round(value, 3) for name, value in each.items()} for each in found],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=__doc__.splitlines()[2])
    add = parser.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=["W3"], help="default: W3, AA-ResNet-50")
    add("--pictures", type=int, default=400, help="files of a round (default: %(default)s)")
    add("--rounds", type=int, default=5, help="default: %(default)s")
    add("--seconds", type=float, default=10, help="of the runtime alone, twice a round (default: %(default)s)")
    add("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    found = {
        name: measure(WORKLOADS[name], arguments.pictures, arguments.rounds, arguments.seconds, Console())
        for name in arguments.workloads
    }
    write_result(arguments.output, {"workloads": found}, "onnxruntime", "pillow", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
