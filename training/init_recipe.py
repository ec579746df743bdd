"""python -m training init-recipe FILE.toml --data DIR: a recipe for a folder of pictures, with every field explained.

training/recipes/folder.toml --network, sizes, batches that DIR has pictures for--> FILE.toml
"""

import argparse
import fnmatch
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from aaserve.bundle.files.text import read_text
from aaserve.models import create_model
from aaserve.models.registry import check_name
from aaserve.models.state_dict import head_of
from aaserve.training.datasets.data import open_data
from aaserve.training.recipe import read_recipe

TEMPLATE = Path(__file__).parent / "recipes" / "folder.toml"
STEPS = 4  # in an epoch, at least: fewer are too few for batch normalisation and the schedule
RESIZE = 256 / 224  # of the shorter side, over the crop
ATTENTION = ("*.qkv.*", "*.proj.*", "*.key_rel_*")  # weights that only the augmented network has
TAKEN_SHARE = 0.1  # of the learning rate, for weights that are loaded


def main(argv: Sequence[str], prog: str) -> int:
    parser = argparse.ArgumentParser(prog=prog, description="Write a recipe for pictures in folders named by class.")
    add = parser.add_argument
    add("file", type=Path, help="TOML file to write")
    add("--data", type=Path, required=True, help="folder that holds train/ and val/ (or test/)")
    add("--network", default="resnet18", help="as python -m models lists them (default: %(default)s)")
    add("--image-size", type=int, default=224, metavar="N", help="side of its input in pixels (default: %(default)s)")
    add("--initial-weights", metavar="FILE", help="start from these: ours, torchvision's or timm's")
    arguments = parser.parse_args(argv)
    try:
        for line in write_recipe(
            arguments.file, arguments.data, arguments.network, arguments.image_size, arguments.initial_weights
        ):
            print(line)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"python -m training {arguments.file} --data {arguments.data}")
    return 0


def write_recipe(
    path: Path, data_folder: Path, network: str, image_size: int, initial_weights: str | None
) -> tuple[str, ...]:
    """Write the recipe, and return a description of the folder.

    Raises:
        FileExistsError: `path` exists; ValueError, OSError: as `open_data` and `read_recipe`.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another name")
    check_name(network)
    shipped = read_recipe(TEMPLATE)
    cpu = torch.device("cpu")
    data = open_data(data_folder, shipped.preprocessing, area=shipped.augmentation.resized_crop_area, device=cpu)
    batch_size = max(1, min(shipped.optimisation.batch_size, len(data.training.classes) // STEPS))
    fields = {
        "architecture": json.dumps(network),
        "batch_size": str(batch_size),
        "resize": str(round(image_size * RESIZE)),
        "crop": f"[{image_size}, {image_size}]",
    }
    with torch.device("meta"):
        built = create_model(network, num_classes=len(data.labels), image_size=image_size)
    if initial_weights:
        names = [name for name, _ in built.named_parameters()]
        new = [pattern for pattern in (f"{head_of(built)}.*", *ATTENTION) if fnmatch.filter(names, pattern)]
        shares = ", ".join([*(f'"{pattern}" = 1.0' for pattern in new), f'"*" = {TAKEN_SHARE}'])
        fields |= {"initial_weights": json.dumps(initial_weights), "learning": f"{{ {shares} }}"}
    text = read_text(TEMPLATE)
    text = text[text.index("\n[") + 1 :]
    for name, value in fields.items():
        text = re.sub(
            rf'^(?:# )?{name} = ("[^"]*"|\[.*?\]|\{{.*?\}}|\S+)',
            lambda _, new=f"{name} = {value}": new,
            text,
            flags=re.M,
        )
    found = "".join(f"# {line}\n" for line in data.found)
    with path.open("x", encoding="utf-8") as file:
        file.write(f"# python -m training {path} --data {data_folder}\n#\n{found}\n{text}")
    try:
        read_recipe(path)
    except ValueError:
        path.unlink()
        raise
    return data.found
