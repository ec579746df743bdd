"""python -m training evaluate FILE --data DIR [--json FILE]: how well a trained network does on the test pictures.

For classification: accuracy and, with a teacher, agreement, by source. For detection: COCO's average precision.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from aaserve.bundle.coco.average_precision import DetectionScore
from aaserve.bundle.coco.instances import TEST_SPLITS
from aaserve.models import create_model
from aaserve.training.classification.distillation import load_teacher
from aaserve.training.classification.evaluate import Score, evaluate
from aaserve.training.datasets.data import DATA_HELP
from aaserve.training.detection.evaluate import evaluate as evaluate_detector
from aaserve.training.detection.task import open_coco
from aaserve.training.loop.checkpoint import METADATA_KEY, load_state
from aaserve.training.machine import Machine, open_machine
from aaserve.training.recipe import CommonRecipe, DetectorRecipe, recipe_from
from aaserve.training.task import task_of

COLUMNS = "{:<16} {:<10} {:>8} {:>8} {:>8} {:>14}"
DETECTION_COLUMNS = "{:<24} {:>8} {:>8} {:>8}"


@dataclass(frozen=True)
class Trained:
    """A run's file `path`."""

    path: Path
    recipe: CommonRecipe
    weights: dict[str, Tensor]

    def network(self, num_classes: int) -> nn.Module:
        """The network with its weights.

        Raises:
            ValueError: it has a different number of classes.
        """
        recipe = self.recipe
        network = create_model(
            recipe.network.architecture,
            num_classes=num_classes,
            image_size=recipe.preprocessing.crop,
            **recipe.network.options,
        )
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            raise ValueError(f"{self.path}: the weights are not those of a network of {num_classes} classes") from error
        return network


def main(argv: Sequence[str], prog: str = "python -m training evaluate") -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Score a trained network on the test pictures: a classifier all together and by source, beside its "
        "teacher; a detector by COCO's average precision.",
    )
    add = parser.add_argument
    add("file", type=Path, help="model.safetensors or last.pt of a run")
    add("--data", type=Path, required=True, help=DATA_HELP)
    add("--split", choices=TEST_SPLITS, help="for a detector: which instances file (default: val if there is one)")
    add("--json", type=Path, help="also write the scores to this file")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda if available")
    arguments = parser.parse_args(argv)
    try:
        trained = _read(arguments.file)
        with open_machine(arguments.device) as machine:
            if isinstance(trained.recipe, DetectorRecipe):
                content = _tell_detection(*score_detector(trained, arguments.data, arguments.split, machine))
            elif arguments.split:
                raise ValueError(f"--split is for detectors; {arguments.file} is a classifier")
            else:
                content = _tell_classification(score(trained, arguments.data, machine))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def score(trained: Trained, data_folder: Path, machine: Machine) -> dict[str, dict[str, Score]]:
    """Scores of a classifier by source and network ("student", "teacher"); "all" are the test pictures of all sources.

    Raises:
        ValueError, OSError: the weights do not fit the data; or the data as `training.datasets.data.open_data`.
    """
    recipe = trained.recipe
    data = task_of(recipe).open_data(data_folder, machine.device)
    network = trained.network(len(data.labels)).to(machine.device)
    teacher = load_teacher(recipe, len(data.labels)).to(machine.device) if recipe.distillation else None
    scores = {}
    for source, pictures in {"all": data.test, **data.sources}.items():
        scores[source] = {"student": evaluate(network, pictures, recipe.preprocessing, machine, teacher)}
        if teacher:
            scores[source]["teacher"] = evaluate(teacher, pictures, recipe.preprocessing, machine)
    return scores


def score_detector(
    trained: Trained, data_folder: Path, split: str | None, machine: Machine
) -> tuple[str, DetectionScore, tuple[str, ...]]:
    """A description of the data, the score on the test pictures, and the class labels.

    Args:
        split: as of `open_coco`.

    Raises:
        ValueError, OSError: the weights do not fit the data; or the data as `open_coco`.
    """
    recipe = trained.recipe
    data = open_coco(data_folder, recipe, split)
    network = trained.network(len(data.labels)).to(machine.device)
    result = evaluate_detector(network, data.test, recipe.preprocessing, machine, len(data.labels))
    return data.found[1], result, data.labels


def _tell_classification(scores: dict[str, dict[str, Score]]) -> dict[str, Any]:
    print(COLUMNS.format("source", "network", "pictures", "top-1", "top-5", "as the teacher"))
    for source, rows in scores.items():
        for name, row in rows.items():
            agreement = "" if row.agreement is None else f"{row.agreement:.2%}"
            print(COLUMNS.format(source, name, row.images, f"{row.top_1:.2%}", f"{row.top_5:.2%}", agreement))
    return {source: {name: asdict(row) for name, row in rows.items()} for source, rows in scores.items()}


def _tell_detection(found: str, result: DetectionScore, labels: Sequence[str]) -> dict[str, Any]:
    print(found)
    print(DETECTION_COLUMNS.format("class", "AP", "AP50", "AP75"))
    of_classes = dict(zip(labels, result.of_classes, strict=True))
    for name, row in {"all": (result.ap, result.ap_50, result.ap_75), **of_classes}.items():
        print(DETECTION_COLUMNS.format(name, *("" if value is None else f"{value:.2%}" for value in row)))
    classes = {name: dict(zip(result.row(), row, strict=True)) for name, row in of_classes.items()}
    return {"images": result.images, **result.row(), "classes": classes}


def _read(path: Path) -> Trained:
    if path.suffix == ".pt":
        state = load_state(path)
        weights = state["network"]
        if average := state["average"]:  # a run tests and keeps the averaged weights
            weights = {name.removeprefix("module."): value for name, value in average.items() if name != "n_averaged"}
        return Trained(path, recipe_from(json.loads(state["recipe"])), weights)
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
            recipe = json.loads((file.metadata() or {})[METADATA_KEY])["recipe"]
    except OSError:
        raise
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: expected the model.safetensors or last.pt of a run") from error
    return Trained(path, recipe_from(recipe), weights)
