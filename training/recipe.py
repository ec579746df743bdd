"""Everything that decides a training run, read from one TOML file."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bundle.preprocessing import Preprocessing

Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(_Section):
    architecture: str


class Optimisation(_Section):
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    max_learning_rate: float = Field(gt=0)
    warm_up_fraction: float = Field(gt=0, lt=1)
    momentum: Fraction
    weight_decay: float = Field(ge=0)
    label_smoothing: Fraction
    precision: Literal["fp32", "bf16"]
    seed: int


class Augmentation(_Section):
    crop_padding: int = Field(ge=0, description="Pixels of zeros around an image before a random crop.")
    horizontal_flip: bool


class Recipe(_Section):
    network: Network
    optimisation: Optimisation
    augmentation: Augmentation
    preprocessing: Preprocessing


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        ValueError: not TOML, or a field missing, unknown or out of bounds; one line that names it.
    """
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
