"""python -m aaserve.service.tuning.measurement: one candidate, in a process of its own, which memory is that of.

stdin: a line of JSON --> the model opened as the service does, asked by 1, 8 and 32 clients --> stdout: a line of JSON

Pictures go through decoding, batching and the model; HTTP is left out.
"""

import asyncio
import itertools
import json
import sys
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.errors import BundleError
from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.predictor import Predictor
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.engine.queueing.queued_request import Inference
from aaserve.service.errors import ServiceError, StartFailed
from aaserve.service.observability.metrics import Metrics
from aaserve.service.repository.factory import open_predictor
from aaserve.service.settings import Settings
from aaserve.service.tasks.classification import rank
from aaserve.service.tasks.detection import detections, detections_wanted

_PATIENCE = 600.0  # seconds for one answer


async def measure(order: dict[str, Any]) -> dict[str, Any]:
    """The figures of one candidate.

    Raises:
        BundleError, StartFailed: the model cannot be opened so.
        ServiceError: a picture cannot be answered.
    """
    settings = Settings.model_validate(order["settings"])
    pictures = [Path(path).read_bytes() for path in order["pictures"]]
    with closing(CpuPool(settings.decode_threads, ClientUsage())) as pool:
        bundle = open_bundle(Path(order["bundle"]))
        async with open_predictor(bundle, settings, pool, Metrics(None, 0), None, lambda error: None) as predictor:
            classes = await _classes(predictor, pictures)
            load = {
                clients: await _load(predictor, pictures, clients, order["seconds"]) for clients in order["clients"]
            }
            return {"classes": classes, "load": load, "memory_mib": _memory_mib()}


async def _classes(predictor: Predictor, pictures: list[bytes]) -> list[list[int]]:
    """The best class of each picture, or those of its objects; a few at once, as queues are bounded."""
    found: list[list[int]] = []
    for start in range(0, len(pictures), 8):
        some = pictures[start : start + 8]
        answers = await asyncio.gather(*(_answer(predictor, picture, "tune") for picture in some))
        found += [_classes_in(answer, predictor.manifest) for answer in answers]
    return found


def _classes_in(inference: Inference, manifest: Manifest) -> list[int]:
    row = inference.row(0)
    if manifest.task == "classification":
        return [item["class_index"] for item in rank(row, manifest, 1)]
    objects = detections(row, manifest, inference.sizes[0], detections_wanted(None, None, manifest))
    return sorted(each["class_index"] for each in objects)


async def _load(predictor: Predictor, pictures: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    rotation = itertools.cycle(pictures)
    took: list[float] = []
    started = loop.time()

    async def client(name: str) -> None:
        while (asked := loop.time()) < started + seconds:
            await _answer(predictor, next(rotation), name)
            took.append(loop.time() - asked)

    await asyncio.gather(*(client(f"client {number}") for number in range(clients)))
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return {"images_per_second": len(took) / (loop.time() - started), "p50_ms": float(p50), "p99_ms": float(p99)}


async def _answer(predictor: Predictor, picture: bytes, client: str) -> Inference:
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    return await predictor.infer_picture(picture, client=client, deadline=deadline)


def _memory_mib() -> float:
    """What the process has in memory now (Linux), or 0."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    warnings.filterwarnings("ignore", module="PIL")
    order = json.loads(sys.stdin.readline())
    try:
        answer = asyncio.run(measure(order))
    except (BundleError, StartFailed, ServiceError, OSError, ValueError) as error:
        answer = {"failure": " ".join(str(error).split())}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
