"""A state dict --> the network with these weights.

"module.net.conv1.weight" --name_weights--> "conv1.weight" --load_weights--> network
"""

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from aaserve.export.errors import ExportError
from aaserve.models.networks.retinanet.network import RetinaNet
from aaserve.models.state_dict import head_of, listed, misfits, told, without_counters


def name_weights(
    weights: Mapping[str, Tensor], wanted: Collection[str], prefix: str | None = None
) -> tuple[dict[str, Tensor], str, int]:
    """Remove a prefix from the names: `prefix`, or one that all share, until a name is in `wanted`.

    Wrappers add such prefixes: `module.` (DataParallel), `_orig_mod.` (torch.compile), `model.` (Lightning), `net.`, …

    Args:
        prefix: keep only weights with this prefix.

    Returns:
        The weights, the removed prefix, and the number of weights that were left out because they lack it.

    Raises:
        ExportError: no name has the prefix.
    """
    if prefix is not None:
        prefix = prefix.rstrip(".") + "."
        kept = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if not kept:
            raise ExportError(
                f"expected names of weights that begin with --key-prefix {prefix}, found {listed(list(weights))}"
            )
        return kept, prefix, len(weights) - len(kept)
    named, taken = dict(weights), ""
    while not any(name in wanted for name in named):
        first = next(iter(named)).partition(".")[0] + "."
        if not all(name.startswith(first) and len(name) > len(first) for name in named):
            return dict(weights), "", 0
        named = {name.removeprefix(first): value for name, value in named.items()}
        taken += first
    return named, taken, 0


def head_classes(network: nn.Module, weights: Mapping[str, Tensor]) -> int:
    """Number of classes of the head in `weights`, for a network like `network`.

    Raises:
        ExportError: no such head in the weights.
    """
    head = head_of(network)
    weight = weights.get(f"{head}.weight")
    if weight is None or weight.ndim != 2:
        raise ExportError(
            f"expected the head of the network, {head}.weight, found none among {listed(list(weights))}"
            f"{_advice(weights, without_counters(network.state_dict()))}"
        )
    return weight.shape[0]


def detected_classes(outline: RetinaNet, weights: Mapping[str, Tensor]) -> int:
    """Number of classes in the weights of a detector like `outline`, which has one class.

    Raises:
        ExportError: no such head in the weights.
    """
    name = f"class_head.{len(outline.class_head) - 1}.weight"
    anchors = outline.class_head[-1].out_channels  # per position, because it has one class
    weight = weights.get(name)
    if weight is None or weight.ndim != 4 or weight.shape[0] % anchors:
        raise ExportError(
            f"expected the class head of the detector, {name}, for {anchors} anchors a position, found "
            f"{'none' if weight is None else tuple(weight.shape)} among {listed(list(weights))}"
            f"{_advice(weights, without_counters(outline.state_dict()))}"
        )
    return weight.shape[0] // anchors


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load all weights into the network.

    Raises:
        ExportError: weights that are missing, unexpected, unusable or of a wrong shape; lists the first ten of each.
    """
    wanted = without_counters(network.state_dict())
    weights = without_counters(weights)
    if problems := misfits(wanted, weights):
        advice = _advice(weights, wanted) if "missing" in problems else ""
        raise ExportError(f"the checkpoint does not fit the network: {told(problems)}{advice}")
    network.load_state_dict({**network.state_dict(), **weights})


def _advice(weights: Mapping[str, Tensor], wanted: Collection[str]) -> str:
    """The --key-prefix values that would find every weight, as text; empty if none does."""
    first = next(iter(wanted))
    prefixes = {name.removesuffix(first) for name in weights if name.endswith(f".{first}")}
    if found := sorted(prefix for prefix in prefixes if all(prefix + name in weights for name in wanted)):
        return f"; all weights are there under --key-prefix {' or '.join(found)}"
    return ""
