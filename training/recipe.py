"""The settings that affect what a run learns, from one TOML file. Settings of the machine are in machine.py."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from aaserve.bundle.files.text import read_text
from aaserve.bundle.preprocessing import Preprocessing, normalisation_problem
from aaserve.models.registry import check_name

Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Architecture = Annotated[str, AfterValidator(check_name)]


class Network(_Section):
    architecture: Architecture = Field(description="As python -m models lists them.")
    options: dict[str, Any] = Field({}, description="Further arguments of models.create_model, such as position.")
    initial_weights: str | None = Field(
        None,
        description="File of initial weights, or package:NAME/FILE; attention that they lack and a head of other "
        "classes are new.",
    )


class Distillation(_Section):
    teacher: Architecture = Field(
        description="Architecture of the network to learn from, as python -m models lists them."
    )
    teacher_options: dict[str, Any] = Field({}, description="Further arguments of models.create_model for it.")
    teacher_weights: str = Field(description="Its weights: a file, or package:NAME/FILE.")
    labels: str | None = Field(
        None, description="File with the teacher's classes, one per line, for pictures named by their class number."
    )
    logit_weight: float = Field(
        ge=0, description="Weight of the Kullback-Leibler divergence from the teacher's probabilities."
    )
    feature_weight: float = Field(
        ge=0, description="Weight of the relative squared error of the features, averaged over them."
    )
    label_weight: float = Field(0.0, ge=0, description="Weight of the cross-entropy with the pictures' labels.")
    features: tuple[str, ...] = Field(
        (), description="Patterns of layers, in both networks, whose outputs are compared."
    )
    computed_once: str | None = Field(
        None, description="Last of the initial layers that are not trained; both networks get its outputs."
    )
    in_memory: bool = Field(False, description="Keep these outputs for all epochs.")

    @model_validator(mode="after")
    def _there_is_something_to_learn_from(self) -> Self:
        if not self.logit_weight + self.feature_weight + self.label_weight:
            raise ValueError("logit_weight, feature_weight and label_weight are all 0")
        if (self.feature_weight > 0) != bool(self.features):
            raise ValueError("feature_weight and features must be set together")
        if self.in_memory and not self.computed_once:
            raise ValueError("in_memory needs computed_once")
        return self


class Optimisation(_Section):
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="sgd uses Nesterov momentum.")
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1, description="Images in one step of the optimiser, over all processes.")
    accumulation: int = Field(1, ge=1, description="Passes into which a process divides its share of a batch.")
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    max_learning_rate: float = Field(gt=0)
    warm_up_fraction: float = Field(ge=0, lt=1, description="Share of all steps during which the learning rate rises.")
    momentum: Fraction = Field(description="Momentum of SGD; beta 1 of AdamW.")
    weight_decay: float = Field(ge=0)
    learning: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {},
        description="Pattern of parameter names: share of max_learning_rate; the first match counts. Parameters "
        "without a match are not trained. Empty: all are trained at max_learning_rate.",
    )
    frozen_statistics: bool = Field(
        False, description="Batch normalisation keeps its statistics and normalises with them."
    )
    ema_decay: Fraction = Field(0.0, description="Decay of the averaged weights, which are then tested and kept.")
    precision: Literal["fp32", "bf16"] = Field(description="bf16: autocast of forward and backward; weights stay fp32.")
    seed: int = Field(ge=0)
    evaluate_every: int = Field(
        1, ge=1, description="Epochs between two evaluations; the last epoch is always evaluated."
    )

    @model_validator(mode="after")
    def _momentum_can_fall(self) -> Self:
        if self.schedule == "one-cycle" and self.momentum < 0.1:
            raise ValueError(f"one-cycle lowers momentum by 0.1, got {self.momentum}")
        return self


class ClassifierOptimisation(Optimisation):
    label_smoothing: Fraction


class Augmentation(_Section):
    resized_crop_area: tuple[float, float] | None = Field(
        None, description="Smallest and largest share of a picture's area to cut out; for folders of pictures."
    )
    crop_padding: int = Field(ge=0, description="Pixels of zeros around an image before a random crop.")
    horizontal_flip: bool
    mixup_alpha: float = Field(0.0, ge=0)
    cutmix_alpha: float = Field(0.0, ge=0)
    mix_probability: Probability = Field(1.0, description="Probability that a batch is mixed.")

    @model_validator(mode="after")
    def _area_is_a_range(self) -> Self:
        if self.resized_crop_area and not 0 < self.resized_crop_area[0] <= self.resized_crop_area[1] <= 1:
            raise ValueError(f"resized_crop_area must rise within 0..1, got {self.resized_crop_area}")
        return self


class DetectorAugmentation(_Section):
    horizontal_flip: bool
    vertical_flip: bool = Field(False, description="For pictures without an up, such as those of a microscope.")
    scale: tuple[float, float] = Field(
        description="Smallest and largest size of a picture, over the size that the preprocessing gives it."
    )
    stretch: float = Field(1.0, ge=1, description="Largest change of the ratio of width to height.")
    colour: Fraction = Field(0.0, description="Largest change of brightness, contrast and saturation, as a share.")
    mosaic: Probability = Field(0.0, description="Of an input to be put together from parts of four pictures.")

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must rise from above 0, got {self.scale}")
        return self


class Boxes(_Section):
    positive_overlap: Probability = Field(0.5, description="IoU with a box from which on an anchor is to find it.")
    negative_overlap: Probability = Field(0.4, description="IoU below which an anchor is to find nothing.")
    best_anchor: bool = Field(True, description="The best anchor of a box is to find it, however little they overlap.")
    box_weight: float = Field(1.0, gt=0, description="Of the boxes' loss, beside that of the classes.")

    @model_validator(mode="after")
    def _overlaps_are_ordered(self) -> Self:
        if self.negative_overlap > self.positive_overlap:
            raise ValueError(f"negative_overlap {self.negative_overlap} is above {self.positive_overlap}, the positive")
        return self


class CommonRecipe(_Section):
    """The fields that recipes of all tasks have."""

    task: str
    network: Network
    optimisation: Optimisation
    augmentation: Augmentation | DetectorAugmentation
    preprocessing: Preprocessing

    @model_validator(mode="after")
    def _normalisation_is_of_0_to_1(self) -> Self:
        if problem := normalisation_problem(self.preprocessing):
            raise ValueError(f"preprocessing: {problem}")
        return self


class Recipe(CommonRecipe):
    """Classification: one class per picture."""

    # Not written to files: checkpoints are older than this field.
    task: Literal["classification"] = Field("classification", exclude_if=lambda task: True)
    optimisation: ClassifierOptimisation
    augmentation: Augmentation
    distillation: Distillation | None = None

    @model_validator(mode="after")
    def _what_is_in_memory_does_not_vary(self) -> Self:
        varies = self.augmentation.model_dump(exclude={"horizontal_flip", "mix_probability"})
        if self.distillation and self.distillation.in_memory and any(varies.values()):
            raise ValueError("distillation.in_memory allows no augmentation but horizontal_flip")
        return self


class DetectorRecipe(CommonRecipe):
    """Detection: boxes, each with a class."""

    task: Literal["detection"]
    augmentation: DetectorAugmentation
    boxes: Boxes = Boxes()


TASKS: dict[str, type[CommonRecipe]] = {"classification": Recipe, "detection": DetectorRecipe}


def recipe_from(content: dict[str, Any]) -> CommonRecipe:
    """The recipe of the task in `content`; the default is classification.

    Raises:
        ValueError: no such task; ValidationError: fields missing, unknown or out of bounds.
    """
    task = content.get("task", "classification")
    if task not in TASKS:
        raise ValueError(f"task: expected {' or '.join(TASKS)}, found {task!r}")
    kind = TASKS[task]
    # For a missing section, the error lists its fields.
    sections = {name: {} for name, field in kind.model_fields.items() if field.is_required()}
    return kind.model_validate(sections | content)


def read_recipe(path: Path) -> CommonRecipe:
    """Read and check a recipe.

    Raises:
        ValueError: not TOML, or fields missing, unknown or out of bounds; one line that names all of them.
    """
    try:
        content = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from error
    try:
        return recipe_from(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {_described(error, TASKS[content.get('task', 'classification')])}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _described(error: ValidationError, recipe: type[CommonRecipe]) -> str:
    """Every problem: first unknown fields, which may be misspelt missing ones, then all missing fields together."""
    problems: dict[str, list[str]] = {"unknown": [], "missing": [], "wrong": []}
    for one in error.errors(include_url=False):
        name = ".".join(map(str, one["loc"]))
        if one["type"] == "extra_forbidden":
            problems["unknown"].append(f"{name}: {_unknown(one['loc'], recipe)}")
        elif one["type"] == "missing":
            problems["missing"].append(name)
        else:
            message = one["msg"].removeprefix("Value error, ")
            problems["wrong"].append(f"{name}: {message}" if name else message)
    missing = [f"missing: {', '.join(problems['missing'])}"] if problems["missing"] else []
    return "; ".join([*problems["unknown"], *missing, *problems["wrong"]])


def _unknown(location: tuple[int | str, ...], recipe: type[CommonRecipe]) -> str:
    section: Any = recipe
    for name in location[:-1]:
        section = next(kind for kind in _kinds(section.model_fields[name].annotation) if kind is not type(None))
    near = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1)
    return (
        f"no such field; did you mean {near[0]}?"
        if near
        else f"no such field; there are {', '.join(section.model_fields)}"
    )


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(annotation) or (annotation,)
