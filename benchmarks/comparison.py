"""python -m benchmarks.comparison RECIPE --networks NAME[,OPTION=VALUE] … --seeds 0 1 2 --data DIR --output FILE

Networks at equal budget: each is trained by the same recipe, which differs in network and seed alone. Afterwards a step
of training and a call of ONNX Runtime are timed, all networks taking turns: the runs themselves may have had anything
beside them. Finished runs are kept in --runs; the command goes on where it was stopped.

    FILE.json    every run, mean and spread, parameters, operations, speed        FILE.png    curves, means over seeds
"""

import argparse
import csv
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from aaserve.export.exporter import export
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.speed import take_turns
from aaserve.export.request import Request
from aaserve.export.sources.checkpoint import read_checkpoint
from aaserve.models import create_model
from aaserve.models.flops import count_flops
from aaserve.training.command import minutes
from aaserve.training.datasets.data import open_data
from aaserve.training.evaluate import Score
from aaserve.training.log import Row, draw_curves
from aaserve.training.machine import Machine, open_machine
from aaserve.training.optimisation.step import batches, train_step
from aaserve.training.recipe import Recipe, read_recipe
from aaserve.training.run import Run
from aaserve.training.stop import Stop
from aaserve.training.trainer import train
from benchmarks.circumstances import write_result

SERVED_BATCHES = (1, 8)
SERVED_ROUNDS = 15
TRAINED_ROUNDS = 5


@dataclass(frozen=True)
class Entrant:
    """A network of the comparison, named as it was typed."""

    name: str
    architecture: str
    options: dict[str, Any]

    def recipe(self, common: Recipe, seed: int) -> Recipe:
        """The common recipe for this network and seed."""
        network = common.network.model_copy(update={"architecture": self.architecture, "options": self.options})
        optimisation = common.optimisation.model_copy(update={"seed": seed})
        return common.model_copy(update={"network": network, "optimisation": optimisation})

    def folder(self, runs: Path, seed: int) -> Path:
        return runs / f"{self.name.replace(',', '-').replace('=', '-')}-seed-{seed}"

    def size(self, num_classes: int, recipe: Recipe) -> dict[str, Any]:
        """Parameters and GFLOPs, as the paper counts and two per multiply-add."""
        with torch.device("meta"):
            size = recipe.preprocessing.crop
            network = create_model(self.architecture, num_classes=num_classes, image_size=size, **self.options)
        flops = count_flops(network, network.image_size)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return {"parameters": parameters, "gflops_paper": flops.paper / 1e9, "gflops": flops.plain / 1e9}


def entrant(text: str) -> Entrant:
    """`aa_wide_resnet16_2,position=none,kappa=0.25` --> what it names."""
    architecture, *options = text.split(",")
    return Entrant(text, architecture, {name: _value(given) for name, given in (one.split("=", 1) for one in options)})


def _value(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def train_all(
    entrants: Sequence[Entrant],
    seeds: Sequence[int],
    common: Recipe,
    data: Path,
    runs: Path,
    machine: Machine,
    stop: Stop,
) -> int:
    """Train what is not trained yet, a seed of all networks after the other; the exit status if it was stopped."""
    console = Console(stderr=True)
    for seed in seeds:
        for one in entrants:
            folder, recipe = one.folder(runs, seed), one.recipe(common, seed)
            if is_trained(folder, recipe):
                continue
            console.print(f"{one.name}, seed {seed}")
            with Progress(console=console, disable=not console.is_terminal) as progress:
                outcome = train_on(recipe, data, folder, machine, stop, progress)
            if isinstance(outcome, int):
                return outcome
    return 0


def train_on(recipe: Recipe, data: Path, folder: Path, machine: Machine, stop: Stop, progress: Progress) -> Score | int:
    """Train as `train`, going on where a run in the folder stopped."""
    return train(
        recipe,
        data,
        folder,
        machine=machine,
        stop=stop,
        progress=progress,
        resume=(folder / "last.pt").exists(),
        save_every=120,
    )


def is_trained(folder: Path, recipe: Recipe) -> bool:
    weights = folder / "model.safetensors"
    if not weights.exists():
        return False
    if read_checkpoint(weights).metadata["recipe"] != recipe.model_dump(mode="json"):
        raise ValueError(f"{weights} was trained by another recipe; start afresh with another --runs")
    return True


def read_log(folder: Path) -> list[Row]:
    """The rows of a run's log.csv, as numbers."""
    with (folder / "log.csv").open(newline="") as file:
        return [{name: float(cell) if cell else None for name, cell in row.items()} for row in csv.DictReader(file)]


def finished_logs(one: Entrant, seeds: Sequence[int], common: Recipe, runs: Path) -> dict[int, list[Row]]:
    """The log of each seed that is trained.

    Raises:
        ValueError: there is none.
    """
    folders = {seed: one.folder(runs, seed) for seed in seeds}
    logs = {seed: read_log(folder) for seed, folder in folders.items() if is_trained(folder, one.recipe(common, seed))}
    if not logs:
        raise ValueError(f"{one.name}: no run is finished in {runs}")
    return logs


def summary(logs: dict[int, list[Row]]) -> dict[str, Any]:
    """The runs of one network, a log for each seed: every run, mean and sample standard deviation."""
    runs = [{"seed": seed, "top_1": log[-1]["top_1"], "top_5": log[-1]["top_5"]} for seed, log in logs.items()]
    result: dict[str, Any] = {"runs": runs}
    for name in ("top_1", "top_5"):
        values = [run[name] for run in runs]
        result[name] = {"mean": statistics.mean(values), "spread": statistics.stdev(values) if len(runs) > 1 else None}
    return result


def mean_log(logs: dict[int, list[Row]]) -> list[Row]:
    """Means over seeds, epoch by epoch."""
    return [
        {
            name: None if any(row[name] is None for row in rows) else statistics.mean(row[name] for row in rows)
            for name in ("epoch", "loss", "top_1")
        }
        for rows in zip(*logs.values(), strict=True)
    ]


def trained_speeds(entrants: Sequence[Entrant], common: Recipe, data: Path, machine: Machine) -> dict[str, float]:
    """Images a second of each network's steps in training, all of them taking turns."""
    opened = open_data(data, common.preprocessing, area=common.augmentation.resized_crop_area, device=machine.device)
    runs = {one.name: Run(one.recipe(common, 0), opened, machine) for one in entrants}
    pixels, classes = next(batches(runs[entrants[0].name]))

    def step(run: Run) -> Callable[[object], None]:
        def one_step(_: object) -> None:
            train_step(run, pixels, classes)
            run.check_loss()  # waits for the device

        return one_step

    seconds = take_turns({name: step(run) for name, run in runs.items()}, pixels.cpu().numpy(), TRAINED_ROUNDS)
    return {name: round(len(pixels) / statistics.median(times), 1) for name, times in seconds.items()}


def served_speeds(weights: dict[str, Path], common: Recipe) -> dict[str, dict[str, float]]:
    """Images a second of each network's exported graph, all of them taking turns."""
    graphs = {}
    for name, checkpoint in weights.items():
        with tempfile.TemporaryDirectory() as repository:
            request = Request(checkpoint, "network", "1", Path(repository), command="python -m benchmarks.comparison")
            exported = export(request)
            graphs[name] = Graph((exported.folder / "model.onnx").read_bytes(), common.preprocessing)
    speeds: dict[str, dict[str, float]] = {name: {} for name in graphs}
    for size in SERVED_BATCHES:
        pixels = np.random.default_rng(0).integers(0, 256, (size, *common.preprocessing.crop, 3), dtype=np.uint8)
        for name, seconds in take_turns(graphs, pixels, SERVED_ROUNDS).items():
            speeds[name][f"batch {size}"] = round(size / statistics.median(seconds), 1)
    return speeds


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown, for docs/results.md."""
    lines = [
        "| network | parameters | GFLOPs | seeds | top-1, mean ± spread | top-5 | trained, images/s | served by 8 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        spread = f" ± {row['top_1']['spread']:.2%}" if row["top_1"]["spread"] is not None else ""
        lines.append(
            f"| `{name}` | {row['parameters']:,} | {row['gflops']:.3f} | {len(row['runs'])} | "
            f"{row['top_1']['mean']:.2%}{spread} | "
            f"{row['top_5']['mean']:.2%} | {row['trained_images_per_second']:.0f} | "
            f"{row['served_images_per_second']['batch 8']:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    arguments = _parser().parse_args()
    entrants, seeds, runs = arguments.networks, arguments.seeds, arguments.runs
    try:
        common = read_recipe(arguments.recipe)
        with Stop(arguments.max_minutes * 60) as stop, open_machine(arguments.device, compiled=False) as machine:
            status = 0
            if not arguments.finished:
                status = train_all(entrants, seeds, common, arguments.data, runs, machine, stop)
            logs = {} if status else {one.name: finished_logs(one, seeds, common, runs) for one in entrants}
            trained = {} if status else trained_speeds(entrants, common, arguments.data, machine)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if status:
        print("stopped; the same command goes on", file=sys.stderr)
        return status
    weights = {one.name: one.folder(runs, min(logs[one.name])) / "model.safetensors" for one in entrants}
    labels = read_checkpoint(weights[entrants[0].name]).metadata["labels"]
    served = served_speeds(weights, common)
    rows = {
        one.name: {
            **one.size(len(labels), common),
            **summary(logs[one.name]),
            "trained_images_per_second": trained[one.name],
            "served_images_per_second": served[one.name],
        }
        for one in entrants
    }
    result = {"recipe": common.model_dump(mode="json"), "trained_on": str(machine), "networks": rows}
    write_result(arguments.output, result, "torch", "onnxruntime")
    draw_curves(arguments.output.with_suffix(".png"), {name: mean_log(log) for name, log in logs.items()})
    print(table(rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparison",
        description=__doc__.splitlines()[2],
        epilog="Exit status: as training's.",
    )
    add = parser.add_argument
    add("recipe", type=Path, help="its network and seed are replaced by each of those below")
    add("--networks", type=entrant, nargs="+", required=True, metavar="NAME[,OPTION=VALUE]", help="what to compare")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="runs of each (default: 0 1 2)")
    add("--finished", action="store_true", help="train nothing; report those runs that are finished")
    add("--data", type=Path, required=True, help="as of python -m training")
    add("--runs", type=Path, default=Path("runs/comparison"), help="where runs are kept (default: %(default)s)")
    add("--output", type=Path, required=True, help="JSON file to write; the curves go beside it")
    add("--max-minutes", type=minutes, default=float("inf"), help="stop after that; the same command goes on")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(main())
