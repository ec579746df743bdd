"""python -m benchmarks.growth [--only models pictures loaded clients] [--seconds S] [--output FILE]

How throughput and memory of the service depend on the size of the model, the size of the picture, the number of loaded
models and the number of clients. Writes JSON and a PNG.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.harness.circumstances import write_result
from benchmarks.harness.generator import Generator, post_request
from benchmarks.harness.pictures import photograph, photographs, small_pngs
from benchmarks.harness.process_tree import processor_seconds, resident_bytes
from benchmarks.harness.random_bundles import random_bundle
from benchmarks.harness.samples import summary
from benchmarks.overload import service

NETWORKS = ("wide_resnet10_1", "tiny", "wide_resnet16_2", "aa_wide_resnet22_2", "wide_resnet28_4", "aa_resnet50")
MEGAPIXELS = (0.1, 0.3, 1, 3, 6, 12, 24)
LOADED = (1, 4, 16)
CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 1000)
ASKING = 16  # clients, if their number is not varied
ENOUGH = ("--max-queue-size", "2000", "--max-inflight-bytes", str(2**31))  # so that no request is refused

Row = dict[str, Any]


@contextmanager
def serving(bundles: dict[str, Path]) -> Iterator[tuple[str, int, int]]:
    """Host, port and process id of a service with these models under these names."""
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        for name, bundle in bundles.items():
            _copy(bundle, Path(folder) / name / bundle.name, name)
        with service(["--repository", folder, *ENOUGH], None) as served:
            yield served


def _copy(bundle: Path, folder: Path, name: str) -> None:
    """Copy a bundle under another name, also in its manifest."""
    folder.mkdir(parents=True)
    for file in bundle.iterdir():
        if file.name == "manifest.json":
            old = f'"name": "{bundle.parent.name}"'
            (folder / file.name).write_text(file.read_text().replace(old, f'"name": "{name}"', 1))
        else:
            (folder / file.name).hardlink_to(file)


def asked(served: tuple[str, int, int], requests: list[bytes], clients: int, seconds: float) -> Row:
    host, port, process = served
    with Generator([(host, port)], requests) as generator:
        generator.closed_loop(clients=clients, seconds=min(2.0, seconds))
        before = processor_seconds(process)
        samples = generator.closed_loop(clients=clients, seconds=seconds)
        used = processor_seconds(process) - before
        return {
            **summary(samples),
            "cpu_ms_each": round(used / max(1, len(samples)) * 1000, 3),
            "resident_mb": round(resident_bytes(process) / 1e6, 1),
        }


def _posts(pictures: list[bytes], media_type: str, path: str = "/classify") -> list[bytes]:
    headers = {"Content-Type": media_type, "X-Request-Timeout-Ms": "60000"}
    return [post_request(path, picture, headers) for picture in pictures]


def by_model(seconds: float) -> Iterator[Row]:
    for network in NETWORKS:
        bundle = random_bundle(network)
        size = round((bundle / "model.onnx").stat().st_size / 1e6, 2)
        with serving({bundle.parent.name: bundle}) as served:
            row = asked(served, _posts(photographs(), "image/jpeg"), ASKING, seconds)
        yield {"network": network, "model_mb": size, **row}


def by_picture(seconds: float) -> Iterator[Row]:
    bundle = random_bundle("tiny")
    for megapixels in MEGAPIXELS:
        picture = photograph(megapixels)
        with serving({"tiny": bundle}) as served:  # a new service, because used memory is not always returned
            row = asked(served, _posts([picture], "image/jpeg"), ASKING, seconds)
        yield {"megapixels": megapixels, "picture_mb": round(len(picture) / 1e6, 2), **row}


def by_models_loaded(seconds: float) -> Iterator[Row]:
    bundle = random_bundle("tiny")
    for number in LOADED:
        names = [f"tiny-{index}" for index in range(number)]
        pictures = small_pngs()
        requests = [
            post
            for index, name in enumerate(names * len(pictures))
            for post in _posts([pictures[index % len(pictures)]], "image/png", f"/classify?model={name}")
        ]
        with serving(dict.fromkeys(names, bundle)) as served:
            yield {"models": number, **asked(served, requests, ASKING, seconds)}


def by_clients(seconds: float) -> Iterator[Row]:
    with serving({"tiny": random_bundle("tiny")}) as served:
        for clients in CLIENTS:
            yield {"clients": clients, **asked(served, _posts(small_pngs(), "image/png"), clients, seconds)}


GROWTHS: dict[str, tuple[str, Callable[[float], Iterator[Row]]]] = {
    "models": ("model_mb", by_model),
    "pictures": ("megapixels", by_picture),
    "loaded": ("models", by_models_loaded),
    "clients": ("clients", by_clients),
}


def plot(path: Path, found: dict[str, list[Row]]) -> None:
    """A column for each kind of growth: throughput, median and p99, resident memory."""
    figure = Figure(figsize=(4 * len(found), 8), layout="constrained")
    panels = figure.subplots(3, len(found), squeeze=False)
    for column, (name, rows) in enumerate(found.items()):
        axis = GROWTHS[name][0]
        sizes = [row[axis] for row in rows]
        panels[0][column].plot(sizes, [row["answered_per_second"] for row in rows], marker="o")
        for quantile in ("p50", "p99"):
            panels[1][column].plot(sizes, [(row["ms"] or {}).get(quantile) for row in rows], marker="o", label=quantile)
        panels[1][column].legend()
        panels[2][column].plot(sizes, [row["resident_mb"] for row in rows], marker="o")
        for line, words in enumerate(("answers per second", "ms", "resident MB")):
            axes = panels[line][column]
            axes.set(xscale="log", xlabel=axis.replace("_", " "), ylabel=words if not column else "")
            if line < 2:
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _show(name: str, rows: list[Row], console: Console) -> None:
    axis = GROWTHS[name][0]
    table = Table(axis.replace("_", " "), "per second", "p50, ms", "p99, ms", "CPU ms each", "resident MB", "by status")
    for row in rows:
        times = [f"{row['ms'][quantile]:.1f}" for quantile in ("p50", "p99")] if row["ms"] else ["–", "–"]
        numbers = (
            f"{row['answered_per_second']:,.1f}",
            *times,
            f"{row['cpu_ms_each']:.2f}",
            f"{row['resident_mb']:.0f}",
        )
        table.add_row(str(row[axis]), *numbers, str(row["codes"]))
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.split("\n\n")[1])
    parser.add_argument("--only", nargs="+", choices=GROWTHS, default=list(GROWTHS), help="default: all of them")
    parser.add_argument("--seconds", type=float, default=5, help="of each load (default: 5)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/growth.json"), help="JSON file (default: runs/growth.json)"
    )
    arguments = parser.parse_args()
    console = Console()
    found: dict[str, list[Row]] = {}
    for name in arguments.only:
        found[name] = list(GROWTHS[name][1](arguments.seconds))
        _show(name, found[name], console)
    measured = {"clients": ASKING, "seconds": arguments.seconds, "growth": found}
    write_result(arguments.output, measured, "onnxruntime", "pillow", "fastapi", "uvicorn")
    plot(arguments.output.with_suffix(".png"), found)
    return 0 if all(set(row["codes"]) == {"200"} for rows in found.values() for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
