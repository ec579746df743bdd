"""A manifest and a predictor --> what anybody may know about a model."""

from pydantic import BaseModel, Field

from bundle.manifest import Accuracy, Input, Manifest, Parity, Provenance
from bundle.preprocessing import Preprocessing


class VersionCard(BaseModel):
    """One version of a model: what it is, how it was made, how good it is."""

    version: str
    state: str = Field(description="starting, ready, recovering, draining or failed.")
    architecture: str
    provider: str | None = Field(description="ONNX Runtime's execution provider; null until the model is loaded.")
    precision: str
    opset: int
    input: Input
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    accuracy: Accuracy | None = Field(description="Null if it was never measured.")
    parity: Parity
    provenance: Provenance
    sha256: dict[str, str] = Field(description="Of each file of the bundle.")


class ModelCard(BaseModel):
    """One model with all its versions, highest first."""

    name: str
    versions: list[VersionCard]


class VersionState(BaseModel):
    """Where one version is in its life."""

    version: str
    state: str


class ModelSummary(BaseModel):
    """One line of the list."""

    name: str
    versions: list[VersionState]


class ModelList(BaseModel):
    """Everything served here."""

    models: list[ModelSummary]


def version_card(manifest: Manifest, *, state: str, provider: str | None) -> VersionCard:
    """The card of one version."""
    return VersionCard(
        version=manifest.version,
        state=state,
        architecture=manifest.architecture,
        provider=provider,
        precision=manifest.precision,
        opset=manifest.opset,
        input=manifest.input,
        preprocessing=manifest.preprocessing,
        labels=manifest.labels,
        accuracy=manifest.accuracy,
        parity=manifest.parity,
        provenance=manifest.provenance,
        sha256=manifest.files,
    )
