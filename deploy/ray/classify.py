"""python -m deploy.ray.classify --output DIR PATH…: `aaserve classify` as a job of Ray Data (docs/ray.md).

read_binary_files --> map_batches: in each actor one model with its batcher --> write_parquet or write_json

PATH is anything that Ray Data reads: files and folders that all nodes see, s3://…, gs://…. A job always starts over.
Settings come from AASERVE_* in the environment, as everywhere.
"""

import argparse
import asyncio
import sys
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset

from aaserve.service.errors import ServiceError
from aaserve.service.offline.classifier import open_classifier
from aaserve.service.settings import Settings

BATCH = 64  # pictures per call of an actor; the batcher makes its own batches of them
SUFFIXES = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"]
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("model", pa.string()),
        ("version", pa.string()),
        ("labels", pa.list_(pa.string())),  # best first, like class_indices and scores
        ("class_indices", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float64())),
        ("code", pa.string()),  # error code, instead of labels
        ("detail", pa.string()),
    ]
)


class Classify:
    """One model in its own event loop.

    Args:
        options: for `open_classifier`.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        cores = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
        settings = Settings(intra_op_num_threads=cores, decode_threads=cores)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._open = AsyncExitStack()
        self._classifier = self._run(self._open.enter_async_context(open_classifier(settings, **options)))

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Map the columns `path` and `bytes` to SCHEMA."""
        manifest = self._classifier.manifest
        outcomes = self._run(self._classify(list(batch["bytes"])))
        rows = [
            {"path": path, "model": manifest.name, "version": manifest.version, **_columns(outcome)}
            for path, outcome in zip(batch["path"], outcomes, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    async def _classify(self, pictures: Sequence[bytes]) -> list[Any]:
        free = asyncio.Semaphore(self._classifier.in_flight)

        async def one(picture: bytes) -> Any:
            async with free:
                return await self._classifier.classify(picture)

        return await asyncio.gather(*map(one, pictures))

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _columns(outcome: Any) -> dict[str, object]:
    if isinstance(outcome, ServiceError):
        return {"code": outcome.code, "detail": str(outcome)}
    names = {"labels": "label", "class_indices": "class_index", "scores": "score"}
    return {column: [one[name] for one in outcome] for column, name in names.items()}


def classify(paths: Sequence[str], options: dict[str, Any], *, actors: int, cpus: int, actor: type) -> Dataset:
    """The answers for all pictures in `paths`, computed when consumed.

    Args:
        options: `model`, `version` and `top_k` for `open_classifier`.
        actors: copies of the model.
        cpus: cores of each.
        actor: Classify, or a subclass.
    """
    # Reading mostly waits. The cores are for the models; on a small cluster none would be left.
    read = ray.data.read_binary_files(
        list(paths), include_paths=True, file_extensions=SUFFIXES, ray_remote_args={"num_cpus": 0}
    )
    return read.map_batches(
        actor,
        fn_constructor_args=(options,),
        batch_size=BATCH,
        num_cpus=cpus,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )


def main(argv: Sequence[str], actor: type = Classify) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.ray.classify", description="Classify pictures on a cluster."
    )
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="files or folders that Ray Data can read")
    add("--output", required=True, metavar="DIR", help="output folder that Ray Data can write")
    add("--format", choices=("parquet", "json"), default="parquet", help="format of the files (default: %(default)s)")
    add("--model", metavar="NAME", help="name of the model (default: the default model)")
    add("--version", metavar="V", help="version of the model (default: the highest)")
    add("--top-k", type=int, metavar="N", help="labels per picture (default: 5)")
    add("--cpus", type=int, default=1, metavar="N", help="cores per copy of the model (default: %(default)s)")
    add("--actors", type=int, metavar="N", help="copies of the model (default: as many as fit the cores)")
    arguments = parser.parse_args(argv)
    ray.init(ignore_reinit_error=True)
    actors = arguments.actors or max(1, int(ray.cluster_resources().get("CPU", 1)) // arguments.cpus)
    options = {name: getattr(arguments, name) for name in ("model", "version", "top_k")}
    answers = classify(arguments.paths, options, actors=actors, cpus=arguments.cpus, actor=actor)
    write = answers.write_parquet if arguments.format == "parquet" else answers.write_json
    write(arguments.output, ray_remote_args={"num_cpus": 0})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
