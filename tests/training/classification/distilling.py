"""A recipe that learns from a teacher, and its refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from aaserve.training.recipe import Recipe
from tests.training.tiny import recipe, run

NEW = {"*.qkv.weight": 1.0, "*.proj.weight": 1.0, "*.key_rel_?": 1.0}
LATE = {**NEW, "layer3.*": 0.1}
CLASSES = 5


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(path)


def saved(network: nn.Module, path: Path, **replaced: Tensor) -> Path:
    save_file({key: value.contiguous() for key, value in (network.state_dict() | replaced).items()}, path)
    return path


def distilling(teacher: Path, photographs: Path, distillation: dict[str, Any] | None = None, **options: Any) -> Recipe:
    """Two epochs of two steps; the arguments replace fields."""
    content = recipe(
        "aa_wide_resnet10_1", **{"epochs": 2, "optimiser": "adamw", "max_learning_rate": 1e-2}
    ).model_dump()
    content["network"] |= {"initial_weights": str(teacher)}
    content["optimisation"] |= {"learning": LATE, "frozen_statistics": True, **options}
    content["augmentation"] |= {"crop_padding": 0}
    content["distillation"] = {
        "teacher": "wide_resnet10_1",
        "teacher_weights": str(teacher),
        "labels": str(photographs / "classes.txt"),
        "logit_weight": 1.0,
        "feature_weight": 1.0,
        "features": ["layer3.*"],
        **(distillation or {}),
    }
    return Recipe.model_validate(content)


def refusal(chosen: Recipe, data: Path, output: Path) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        run(chosen, data, output)
    assert "\n" not in str(caught.value)
    return str(caught.value)
