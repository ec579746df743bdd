"""python -m training evaluate FILE --data DIR [--json FILE]: accuracy and agreement with the teacher, by source."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from aaserve.models import create_model
from aaserve.training.checkpoint import METADATA_KEY, load_state
from aaserve.training.datasets.data import LAYOUTS, open_data
from aaserve.training.datasets.numbered import class_names
from aaserve.training.distillation import load_teacher
from aaserve.training.evaluate import Score, evaluate
from aaserve.training.machine import open_machine
from aaserve.training.recipe import Recipe

COLUMNS = "{:<16} {:<10} {:>8} {:>8} {:>8} {:>14}"


def main(argv: Sequence[str], prog: str = "python -m training evaluate") -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Score a trained network on the test pictures, all together and by source, beside its teacher.",
    )
    add = parser.add_argument
    add("file", type=Path, help="model.safetensors or last.pt of a run")
    add("--data", type=Path, required=True, help=f"folder that holds {LAYOUTS}")
    add("--json", type=Path, help="where to write the scores as well")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda where there is one")
    arguments = parser.parse_args(argv)
    try:
        scores = score(arguments.file, arguments.data, arguments.device)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(COLUMNS.format("source", "network", "pictures", "top-1", "top-5", "as the teacher"))
    for source, rows in scores.items():
        for name, row in rows.items():
            agreement = "" if row.agreement is None else f"{row.agreement:.2%}"
            print(COLUMNS.format(source, name, row.images, f"{row.top_1:.2%}", f"{row.top_5:.2%}", agreement))
    if arguments.json:
        content = {source: {name: asdict(row) for name, row in rows.items()} for source, rows in scores.items()}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def score(path: Path, data_folder: Path, device: str = "auto") -> dict[str, dict[str, Score]]:
    """Scores by source and network ("student", "teacher"); "all" are the test pictures of all sources.

    Raises:
        ValueError, OSError: no such file, or not one of a run; or the data as `training.data.open_data`.
    """
    recipe, weights = _read(path)
    with open_machine(device) as machine:
        labels = class_names(recipe)
        data = open_data(data_folder, recipe.preprocessing, area=None, device=machine.device, labels=labels)
        network = create_model(
            recipe.network.architecture,
            num_classes=len(data.labels),
            image_size=recipe.preprocessing.crop,
            **recipe.network.options,
        )
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{path}: the weights are not those of a network of {len(data.labels)} classes") from error
        network = network.to(machine.device)
        teacher = load_teacher(recipe, len(data.labels)).to(machine.device) if recipe.distillation else None
        scores = {}
        for source, pictures in {"all": data.test, **data.sources}.items():
            scores[source] = {"student": evaluate(network, pictures, recipe.preprocessing, machine, teacher)}
            if teacher:
                scores[source]["teacher"] = evaluate(teacher, pictures, recipe.preprocessing, machine)
    return scores


def _read(path: Path) -> tuple[Recipe, dict[str, Tensor]]:
    if path.suffix == ".pt":
        state = load_state(path)
        return Recipe.model_validate_json(state["recipe"]), state["network"]
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
            recipe = json.loads((file.metadata() or {})[METADATA_KEY])["recipe"]
    except OSError:
        raise
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: expected the model.safetensors or last.pt of a run") from error
    return Recipe.model_validate(recipe), weights
