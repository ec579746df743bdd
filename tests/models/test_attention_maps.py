"""Where layers look: what a layer's map is, and that a network's maps are those of its layers."""

import pytest
import torch

from models import create_model
from models.attention import POSITIONS, AttentionAugmentedConv2d, attention_layers, attention_maps


@pytest.mark.parametrize("position", POSITIONS)
def test_the_map_is_what_the_values_are_weighed_with(position: str) -> None:
    torch.manual_seed(0)
    layer = AttentionAugmentedConv2d(
        8, 4, 3, key_channels=8, value_channels=4, num_heads=2, feature_size=(3, 5), position=position
    )
    x = torch.randn(2, 8, 6, 10)  # pooled to the feature size
    maps = layer.attention_map(x)
    assert maps.shape == (2, 2, 15, 15)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(2, 2, 15))
    torch.nn.init.dirac_(layer.proj.weight)
    _, _, values = layer._queries_keys_values(layer._pool(x))  # (B, Nh, N, e)
    heads = (maps @ values).transpose(2, 3).reshape(2, 4, 3, 5)
    upsampled = torch.nn.functional.interpolate(heads, (6, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(x), upsampled, atol=1e-6, rtol=1e-5)


def test_a_networks_maps_are_its_layers_in_the_order_they_run_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    network = create_model("aa_resnet34", num_classes=3, image_size=(32, 64)).eval()
    x = torch.randn(1, 3, 32, 64)
    before = network(x)
    maps, layers = attention_maps(network, x), attention_layers(network, x)
    ran: list[str] = []
    hooks = [layer.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, layer in layers.items()]
    assert torch.equal(network(x), before)
    assert list(maps) == list(layers) == ran
    assert all(maps[name].shape[1] == layer.num_heads for name, layer in layers.items())
    for hook in hooks:
        hook.remove()
    assert not any(module._forward_pre_hooks for module in network.modules())
