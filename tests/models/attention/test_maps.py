"""Attention maps: of one layer, and of all layers of a network."""

import pytest
import torch
from torch.nn import functional as F

from aaserve.models import create_model
from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.attention.maps import attention_layers, attention_maps
from aaserve.models.attention.position import POSITIONS


@pytest.mark.parametrize("position", POSITIONS)
def test_the_attention_map_times_the_values_is_the_layers_output(position: str) -> None:
    torch.manual_seed(0)
    layer = AttentionAugmentedConv2d(
        8, 4, 3, key_channels=8, value_channels=4, num_heads=2, feature_size=(3, 5), position=position
    )
    x = torch.randn(2, 8, 6, 10)
    maps = layer.attention_map(x)
    assert maps.shape == (2, 2, 15, 15)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(2, 2, 15))
    torch.nn.init.dirac_(layer.proj.weight)
    pooled = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)  # (B, C, 3, 5)
    values = layer.qkv(layer.position.encode(pooled))[:, -4:].reshape(2, 2, 2, 15).transpose(2, 3)  # (B, Nh, N, e)
    heads = (maps @ values).transpose(2, 3).reshape(2, 4, 3, 5)
    upsampled = F.interpolate(heads, (6, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(x), upsampled, atol=1e-6, rtol=1e-5)


def test_maps_and_layers_of_a_network_come_in_the_order_the_layers_run_and_no_hook_stays() -> None:
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
