"""Wide-ResNets: the keys of a checkpoint that is being trained, and the shortcut without parameters."""

import pytest
import torch

from aaserve.models import create_model
from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.networks.wide_resnet import WideResNet


def test_checkpoints_of_aa_wide_resnet22_2_keep_loading() -> None:
    """Written down when the first training began; a change here makes its checkpoints useless."""
    expected: dict[str, tuple[int, ...]] = {"conv1.weight": (16, 3, 3, 3)}

    def norm(key: str, channels: int) -> None:
        expected.update({f"{key}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        expected[f"{key}.num_batches_tracked"] = ()

    channels = 16
    for stage, out_channels in ((1, 32), (2, 64), (3, 128)):
        for index in range(3):
            block = f"layer{stage}.{index}"
            norm(f"{block}.bn1", channels)
            if stage < 3:
                expected[f"{block}.conv1.weight"] = (out_channels, channels, 3, 3)
            else:
                expected[f"{block}.conv1.key_rel_h"] = (15, 20)
                expected[f"{block}.conv1.key_rel_w"] = (15, 20)
                expected[f"{block}.conv1.conv.weight"] = (96, channels, 3, 3)
                expected[f"{block}.conv1.qkv.weight"] = (192, channels, 1, 1)
                expected[f"{block}.conv1.proj.weight"] = (32, 32, 1, 1)
            norm(f"{block}.bn2", out_channels)
            expected[f"{block}.conv2.weight"] = (out_channels, out_channels, 3, 3)
            channels = out_channels
    norm("bn", 128)
    expected |= {"fc.weight": (100, 128), "fc.bias": (100,)}
    found = {key: tuple(tensor.shape) for key, tensor in create_model("aa_wide_resnet22_2").state_dict().items()}
    assert list(found.items()) == list(expected.items())


def noise(tensor: torch.Tensor, phase: int) -> torch.Tensor:
    """Within -1..1 and the same on every machine, in the shape of `tensor`."""
    return torch.sin(torch.arange(tensor.numel(), dtype=torch.float64).square() * 1.7 + phase).reshape(tensor.shape)


def test_the_forward_of_aa_wide_resnet22_2_stays_what_it_was() -> None:
    """The logits were computed with the code of the first training, from weights that a formula gives."""
    network = create_model("aa_wide_resnet22_2").eval()
    state = network.state_dict()
    for phase, (key, tensor) in enumerate(state.items()):
        if tensor.ndim == 1:
            state[key] = (1 + 0.3 * noise(tensor, phase)).float()
        elif tensor.ndim > 1:
            state[key] = ((3 / tensor[0].numel()) ** 0.5 * noise(tensor, phase)).float()
    network.load_state_dict(state)
    image = torch.sin(torch.arange(3 * 32 * 32, dtype=torch.float64).square() * 0.37).reshape(1, 3, 32, 32).float()
    with torch.inference_mode():
        logits = network(image)[0, :5]
    torch.testing.assert_close(logits, torch.tensor([-0.2064, 0.9496, -2.3825, 1.2268, -1.7977]), atol=1e-3, rtol=0)


def test_the_paper_augments_the_first_convolution_of_every_block_at_full_resolution() -> None:
    with torch.device("meta"):
        modules = dict(create_model("aa_wide_resnet28_10").named_modules())
    augmented = {key: module for key, module in modules.items() if isinstance(module, AttentionAugmentedConv2d)}
    assert list(augmented) == [f"layer{stage}.{index}.conv1" for stage in (1, 2, 3) for index in range(4)]
    found = [(layer.key_channels, layer.value_channels, layer.feature_size) for layer in augmented.values()]
    expected = [(160, 16, (32, 32)), (160, 32, (16, 16)), (160, 64, (8, 8))]
    assert found == [row for row in expected for _ in range(4)]


def test_a_block_whose_residual_is_zero_pools_its_input_and_centres_it_among_zeros() -> None:
    block = create_model("wide_resnet10_1").eval().layer2[0]  # 16 --> 32 channels, stride 2
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 16, 4, 4)
    with torch.inference_mode():
        output = block(x)
    assert torch.equal(output[:, :8], torch.zeros(1, 8, 2, 2))
    assert torch.equal(output[:, 24:], torch.zeros(1, 8, 2, 2))
    torch.testing.assert_close(output[:, 8:24], x.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5)))


def test_dropout_acts_between_the_convolutions_while_training() -> None:
    torch.manual_seed(0)
    block = create_model("wide_resnet10_1", dropout=0.5).layer1[0]
    x = torch.randn(2, 16, 8, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


@pytest.mark.parametrize(
    ("depth", "width", "message"),
    [(12, 1, "6n \\+ 4 .*got 12"), (4, 1, "got 4"), (10, 0, "width must be at least 1, got 0")],
)
def test_shapes_that_do_not_exist_are_refused(depth: int, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WideResNet(depth, width)
