"""python -m benchmarks.from_plain RECIPE --data DIR --output FILE.json: what a plain network is worth as a start.

    plain network, n epochs --initial_weights--> augmented network, n epochs     the recipe says how
    augmented network from scratch, 2n epochs                                    at one learning rate

The budget is counted in pictures; the result has the CPU seconds of each run as well. Finished runs are kept in --runs;
the command goes on where it was stopped.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from aaserve.training.machine import open_machine
from aaserve.training.recipe import Recipe, read_recipe
from aaserve.training.stop import Stop
from benchmarks.circumstances import write_result
from benchmarks.comparison import is_trained, read_log, train_on

AUGMENTED = "aa_"
PLAIN, FROM_PLAIN, FROM_SCRATCH = "plain", "augmented, from plain", "augmented, from scratch"
ARMS = (PLAIN, FROM_SCRATCH, FROM_PLAIN)


def recipes(common: Recipe, seed: int, runs: Path) -> dict[str, tuple[Path, Recipe]]:
    """The folder and the recipe of each run of a seed, in the order in which they need each other."""
    folders = {name: runs / f"{name.replace(', ', '-').replace(' ', '-')}-seed-{seed}" for name in ARMS}
    settings = common.optimisation.model_copy(update={"seed": seed})
    alone = settings.model_copy(update={"learning": {}})
    augmented = common.network.model_copy(update={"initial_weights": None})
    plain = augmented.model_copy(update={"architecture": augmented.architecture.removeprefix(AUGMENTED)})
    started = augmented.model_copy(update={"initial_weights": str(folders[PLAIN] / "model.safetensors")})
    longer = alone.model_copy(update={"epochs": 2 * settings.epochs})
    changes = {
        PLAIN: {"network": plain, "optimisation": alone},
        FROM_SCRATCH: {"network": augmented, "optimisation": longer},
        FROM_PLAIN: {"network": started, "optimisation": settings},
    }
    return {name: (folders[name], common.model_copy(update=change)) for name, change in changes.items()}


def train_one(folder: Path, recipe: Recipe, data: Path, stop: Stop) -> int:
    """Train it unless it is trained; the exit status if it was stopped."""
    if is_trained(folder, recipe):
        return 0
    before = cpu_seconds(folder)
    started = time.process_time()
    with open_machine("cpu") as machine, Progress(disable=True) as progress:
        outcome = train_on(recipe, data, folder, machine, stop, progress)
    (folder / "cpu-seconds").write_text(str(before + time.process_time() - started))
    return outcome if isinstance(outcome, int) else 0


def cpu_seconds(folder: Path) -> float:
    """What the run took so far, reading and testing included."""
    path = folder / "cpu-seconds"
    return float(path.read_text()) if path.exists() else 0.0


def result(common: Recipe, seeds: Sequence[int], runs: Path) -> dict[str, Any]:
    """Every run, and means over seeds."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    for seed in seeds:
        for name, (folder, recipe) in recipes(common, seed, runs).items():
            last = read_log(folder)[-1]
            score = {"top_1": last["top_1"], "top_5": last["top_5"]}
            seconds = round(cpu_seconds(folder))
            rows[name].append({"seed": seed, "epochs": recipe.optimisation.epochs, **score, "cpu_seconds": seconds})
    columns = ("top_1", "top_5", "cpu_seconds")
    means = {name: {column: statistics.mean(row[column] for row in rows[name]) for column in columns} for name in ARMS}
    return {"recipe": common.model_dump(mode="json"), "runs": rows, "means": means}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.from_plain", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("recipe", type=Path, help="of the augmented network with initial_weights; its name begins with aa_")
    add("--seeds", type=int, nargs="+", default=[0, 1], help="runs of each (default: 0 1)")
    add("--data", type=Path, required=True, help="as of python -m training")
    add("--runs", type=Path, default=Path("runs/from-plain"), help="where runs are kept (default: %(default)s)")
    add("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    try:
        common = read_recipe(arguments.recipe)
        with Stop(float("inf")) as stop:
            for seed in arguments.seeds:
                for name, (folder, recipe) in recipes(common, seed, arguments.runs).items():
                    print(f"{name}, seed {seed}", file=sys.stderr)
                    if status := train_one(folder, recipe, arguments.data, stop):
                        return status
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_result(arguments.output, result(common, arguments.seeds, arguments.runs), "torch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
