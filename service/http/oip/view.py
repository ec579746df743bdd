"""What clients of the protocol see of a model: one network under two names, each with a single input.

    aa-cifar100             image UINT8 [-1, 32, 32, 3]  -->  logits FP32 [-1, 100]
    aa-cifar100:pictures    image BYTES [-1]             -->  scores FP32 [-1, 100], logits FP32 [-1, 100]

No bundle can take the second name from another: names of bundles have no colon. Why: docs/decisions/0010.
"""

from dataclasses import dataclass
from functools import cached_property

from aaserve.bundle.manifest import Manifest

PICTURES_SUFFIX = ":pictures"
BYTES = "BYTES"
SCORES = "scores"
LOGITS = "logits"
_DATATYPES = {"float32": "FP32", "uint8": "UINT8"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output, without the batch axis, which comes first and is dynamic."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class View:
    """A model as tensors, or as encoded pictures that are decoded and preprocessed as `/classify` does."""

    manifest: Manifest
    pictures: bool

    @property
    def name(self) -> str:
        return self.manifest.name + (PICTURES_SUFFIX if self.pictures else "")

    @cached_property
    def input(self) -> TensorSpec:
        if self.pictures:
            return TensorSpec("image", BYTES, ())
        declared = self.manifest.input
        return TensorSpec(declared.name, _DATATYPES[declared.dtype], declared.shape)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        declared = self.manifest.output
        if self.pictures:
            return tuple(TensorSpec(name, "FP32", declared.shape) for name in (SCORES, LOGITS))
        return (TensorSpec(declared.name, _DATATYPES[declared.dtype], declared.shape),)


def split_name(name: str) -> tuple[str, bool]:
    """The name of the bundle, and whether its pictures are meant."""
    model = name.removesuffix(PICTURES_SUFFIX)
    return model, model != name


def names(model: str) -> tuple[str, str]:
    """Both names of a bundle."""
    return model, model + PICTURES_SUFFIX


def views(manifest: Manifest) -> tuple[View, View]:
    """Both faces of a model."""
    return View(manifest, pictures=False), View(manifest, pictures=True)
