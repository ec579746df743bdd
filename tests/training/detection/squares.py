"""Pictures of coloured rectangles in COCO's format, and recipes that learn to find them in a few seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aaserve.bundle.coco.average_precision import DetectionScore
from aaserve.training.recipe import DetectorRecipe, read_recipe
from tests.helpers import ROOT
from tests.training.tiny import run

SHIPPED_RECIPE = ROOT / "training" / "recipes" / "retinanet_aa_small_bccd.toml"
# Numbers with gaps, and not in the order of the names: the labels are green, red.
CATEGORIES = [{"id": 7, "name": "red"}, {"id": 3, "name": "green"}]
COLOURS = {7: (220, 30, 30), 3: (30, 200, 30)}
SMALL = {"width": 8, "channels": 16, "head_convolutions": 1}
# What an instances file says of a picture.
Listed = dict[str, Any]


def write_pictures(folder: Path, split: str, count: int, *, seed: int = 0, size: tuple[int, int] = (96, 64)) -> Path:
    """`count` pictures of (width, height) pixels with up to three rectangles each, the first with none."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        pixels = random.integers(90, 130, (size[1], size[0], 3), dtype=np.uint8)
        for _ in range(0 if number == 0 else random.integers(1, 4)):
            category = CATEGORIES[random.integers(2)]["id"]
            width, height = random.integers(14, 30, 2).tolist()
            left, top = int(random.integers(size[0] - width)), int(random.integers(size[1] - height))
            pixels[top : top + height, left : left + width] = COLOURS[category]
            annotations.append({"image_id": 100 + number, "category_id": category, "bbox": [left, top, width, height]})
        name = f"{split or 'picture'}{number}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        images.append({"id": 100 + number, "file_name": name, "width": size[0], "height": size[1]})
    return write_instances(folder, split, images, annotations)


def write_instances(
    folder: Path, split: str, images: list[Listed], annotations: list[Listed], categories: list[Listed] = CATEGORIES
) -> Path:
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / (f"instances_{split}.json" if split else "instances.json")
    file.write_text(json.dumps(content))
    return file


def detector(
    architecture: str = "retinanet_small",
    *,
    options: dict[str, Any] | None = None,
    augmentation: dict[str, Any] | None = None,
    boxes: dict[str, Any] | None = None,
    preprocessing: dict[str, Any] | None = None,
    initial_weights: str | None = None,
    **optimisation: Any,
) -> DetectorRecipe:
    """Two epochs with batches of four inputs of 64x64 pixels; the arguments replace fields."""
    content = read_recipe(SHIPPED_RECIPE).model_dump()
    content["network"] = {
        "architecture": architecture,
        "options": {**SMALL, **(options or {})},
        "initial_weights": initial_weights,
    }
    content["optimisation"] |= {"epochs": 2, "batch_size": 4, "precision": "fp32", "evaluate_every": 1, **optimisation}
    content["augmentation"] |= augmentation or {}
    content["boxes"] |= boxes or {}
    content["preprocessing"] |= {"crop": (64, 64), **(preprocessing or {})}
    return DetectorRecipe.model_validate(content)


LEARNING = detector(
    epochs=20,
    max_learning_rate=5e-3,
    evaluate_every=10,
    ema_decay=0.9,
    augmentation={"mosaic": 0.0, "colour": 0.0, "scale": (0.9, 1.1)},
    preprocessing={"crop": (64, 96)},
)


def train_detector(folder: Path) -> None:
    """Write the pictures `squares`, what training on them leaves in `run`, and the score it gives, `score.json`."""
    write_pictures(folder / "squares", "train", 32)
    write_pictures(folder / "squares", "val", 8, seed=1)
    score = run(LEARNING, folder / "squares", folder / "run")
    assert isinstance(score, DetectionScore)
    write_pictures(folder / "squares", "test", 4, seed=2)
    (folder / "score.json").write_text(json.dumps({"ap": score.ap, "ap_50": score.ap_50, "ap_75": score.ap_75}))
