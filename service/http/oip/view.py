"""What clients of the protocol see of a model: one network under two names, each with a single input.

    aa-cifar100             image UINT8 [-1, 32, 32, 3]  -->  logits FP32 [-1, 100]
    aa-cifar100:pictures    image BYTES [-1]             -->  scores FP32 [-1, 100], logits FP32 [-1, 100]

Of a model of detection both have its own outputs. The boxes are in pixels of what was sent: of the input, or of the
upright picture.

No bundle can take the second name from another: names of bundles have no colon. Why: docs/decisions/0010.
"""

from dataclasses import dataclass
from functools import cached_property

from aaserve.bundle.manifest import Manifest
from aaserve.bundle.sections import Output
from aaserve.service.tasks.classification import SCORES

PICTURES_SUFFIX = ":pictures"
BYTES = "BYTES"
_DATATYPES = {"float32": "FP32", "float16": "FP32", "int64": "INT64", "uint8": "UINT8"}  # JSON has no FP16


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output, without the batch axis, which comes first and is dynamic."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class View:
    """A model as tensors, or as encoded pictures that are decoded and preprocessed as `/classify` and `/detect` do."""

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
        """What a request gets that names no outputs."""
        outputs = tuple(map(_spec, self.manifest.outputs))
        if self.pictures and self.manifest.task == "classification":
            return TensorSpec(SCORES, "FP32", outputs[0].shape), *outputs
        return outputs

    @cached_property
    def attention(self) -> tuple[TensorSpec, ...]:
        """What a request gets only by name, because it is large."""
        return tuple(_spec(maps.as_output) for maps in self.manifest.attention)


def _spec(output: Output) -> TensorSpec:
    return TensorSpec(output.name, _DATATYPES[output.dtype], output.shape)


def split_name(name: str) -> tuple[str, bool]:
    """The name of the bundle, and whether its pictures are meant."""
    model = name.removesuffix(PICTURES_SUFFIX)
    return model, model != name


def names(model: str) -> tuple[str, str]:
    """Both names of a bundle."""
    return model, model + PICTURES_SUFFIX
