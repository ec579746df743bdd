"""Attention maps of a whole network: which positions its layers look at for an image."""

from functools import partial

from torch import Tensor, nn

from aaserve.models.attention.layer import AttentionAugmentedConv2d


def attention_maps(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The `attention_map` of each attention layer for the input `x`, by layer name, in the order the layers run."""
    return {name: layer.attention_map(seen) for name, (layer, seen) in _run(network, x).items()}


def attention_layers(network: nn.Module, x: Tensor) -> dict[str, AttentionAugmentedConv2d]:
    """The attention layers by name, in the order they run for the input `x`."""
    return {name: layer for name, (layer, _) in _run(network, x).items()}


def _run(network: nn.Module, x: Tensor) -> dict[str, tuple[AttentionAugmentedConv2d, Tensor]]:
    """Run the network on `x`; return each attention layer and its input."""
    ran: dict[str, tuple[AttentionAugmentedConv2d, Tensor]] = {}

    def record(name: str, layer: AttentionAugmentedConv2d, inputs: tuple[Tensor]) -> None:
        ran[name] = layer, inputs[0]

    layers = [
        (name, module) for name, module in network.named_modules() if isinstance(module, AttentionAugmentedConv2d)
    ]
    hooks = [layer.register_forward_pre_hook(partial(record, name)) for name, layer in layers]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return ran
