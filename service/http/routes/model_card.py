"""A model in memory --> what anybody may know about it."""

import re
import shlex
from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, Field

from aaserve.bundle.manifest import AnyAccuracy, AnyParity
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.bundle.sections import AttentionMap, Input, Provenance
from aaserve.bundle.tasks.detection import Suppression
from aaserve.service.repository.served_model import LoadedVersion, ServedModel


class Agreement(BaseModel):
    """How answers in a lower precision agree with those in fp32, as compared when the model was loaded."""

    precision: str = Field(description="In which this service computes.")
    pictures: int = Field(description="A made-up one, and the reference pictures that are in the bundle.")
    same_best_class: int = Field(description="Of these pictures; of detection, those with the same objects.")
    max_difference: float = Field(
        description="Of any logit, as a share of the picture's largest logit or of 1; of detection, of any score."
    )


AnySuppression = Annotated[Suppression | None, Field(exclude_if=lambda suppression: suppression is None)]
LowerPrecision = Annotated[Agreement | None, Field(exclude_if=lambda agreement: agreement is None)]


class VersionCard(BaseModel):
    """One version of a model: what it is, how it was made, how good it is."""

    version: str
    state: str = Field(description="ready, recovering, failed, or standby: kept in memory for a rollback.")
    task: str = Field(description="classification or detection.")
    architecture: str
    provider: str = Field(description="ONNX Runtime's execution provider, or OpenVINO.")
    precision: str = Field(description="Of the bundle. lower_precision says if this service computes in less.")
    lower_precision: LowerPrecision = Field(
        description="Only where this service computes in less than the bundle's precision; see cpu_precision."
    )
    stored_weights: str
    opset: int
    input: Input
    preprocessing: Preprocessing
    suppression: AnySuppression = Field(description="Of a model of detection: how it chooses among boxes.")
    labels: tuple[str, ...]
    attention: tuple[AttentionMap, ...] = Field(description="What POST /explain can show; empty if nothing.")
    accuracy: AnyAccuracy | None = Field(description="Null if it was never measured.")
    parity: AnyParity
    provenance: Provenance
    sha256: dict[str, str] = Field(description="Of each file of the bundle.")


class Failure(BaseModel):
    """A version that cannot be served, or the model as a whole."""

    version: str | None
    reason: str


Notice = Annotated[
    str | None,
    Field(
        exclude_if=lambda notice: notice is None,
        description="There where an older version is served than the folder asks for: after a rollback, or because the "
        "newer one is broken.",
    ),
]


class ModelCard(BaseModel):
    """One model: the versions in memory, those that answer first and of these the highest; and what failed."""

    name: str
    versions: list[VersionCard]
    failures: list[Failure]
    notice: Notice = None


class VersionState(BaseModel):
    """Where one version is in its life."""

    version: str
    task: str
    state: str


class ModelSummary(BaseModel):
    """One line of the list."""

    name: str
    versions: list[VersionState]
    failures: list[Failure]
    notice: Notice = None


class ModelList(BaseModel):
    """Everything served here."""

    default_model: str | None = Field(
        description="The model that answers a request that names none; null if a request has to name one."
    )
    models: list[ModelSummary]


def model_card(model: ServedModel) -> ModelCard:
    """All that is known of a model."""
    return ModelCard(
        name=model.name,
        versions=[_version_card(loaded, state) for loaded, state in _in_memory(model)],
        failures=[Failure(version=version or None, reason=reason) for version, reason in model.failures.items()],
        notice=model.notice,
    )


def model_summary(model: ServedModel) -> ModelSummary:
    """The model in a line: its card in short."""
    return ModelSummary.model_validate(model_card(model), from_attributes=True)


def _in_memory(model: ServedModel) -> Iterator[tuple[LoadedVersion, str]]:
    for version in reversed(model.serving):
        loaded = model.serving[version]
        state = "ready" if loaded.predictor.ready else "recovering" if loaded.predictor.alive else "failed"
        yield loaded, state
    for loaded in model.standby.values():
        if loaded not in model.serving.values():
            yield loaded, "standby"


def _version_card(loaded: LoadedVersion, state: str) -> VersionCard:
    manifest, agreement = loaded.bundle.manifest, loaded.predictor.agreement
    return VersionCard(
        version=manifest.version,
        state=state,
        task=manifest.task,
        architecture=manifest.architecture,
        provider=loaded.predictor.provider,
        precision=manifest.precision,
        lower_precision=Agreement.model_validate(agreement, from_attributes=True) if agreement else None,
        stored_weights=manifest.stored_weights,
        opset=manifest.opset,
        input=manifest.input,
        preprocessing=manifest.preprocessing,
        suppression=manifest.suppression,
        labels=manifest.labels,
        attention=manifest.attention,
        accuracy=manifest.accuracy,
        parity=manifest.parity,
        provenance=manifest.provenance.model_copy(update={"command": without_folders(manifest.provenance.command)}),
        sha256=manifest.files,
    )


def without_folders(command: str) -> str:
    """A shell command with the last part of each path: it must not show the folders of the machine it ran on."""
    try:
        words = shlex.split(command)
    except ValueError:  # not one that the exporter wrote
        return ""
    return shlex.join(re.sub(r"[^=]*[/\\]", "", word.rstrip("/")) for word in words)
