"""Names to networks, each of which runs."""

import pytest
import torch

from aaserve.models import create_model, is_detector, list_models
from aaserve.models.attention.augmentation import Augmentation


def small_image(name: str) -> tuple[int, int]:
    """Not square, and as small as the network takes it."""
    return (8, 12) if "wide" in name else (32, 48)


CLASSIFIERS = [name for name in list_models() if not is_detector(name)]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_gives_finite_logits_for_images_that_are_not_square(name: str) -> None:
    torch.manual_seed(0)
    size = small_image(name)
    network = create_model(name, num_classes=5, image_size=size).eval()
    with torch.inference_mode():
        logits = network(torch.randn(2, 3, *size))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["aa_resnet34", "aa_wide_resnet10_1", "aa_mnasnet0_75", "se_wide_resnet10_1"])
def test_images_of_a_batch_do_not_see_each_other_and_two_passes_are_bit_equal(name: str) -> None:
    torch.manual_seed(0)
    size = small_image(name)
    network = create_model(name, num_classes=5, image_size=size).eval()
    images = torch.randn(3, 3, *size)
    with torch.inference_mode():
        together = network(images)
        assert torch.equal(network(images), together)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4 * together.abs().max().item(), rtol=0)


@pytest.mark.parametrize("position", ["none", "sinusoidal", "coordconv"])
@pytest.mark.parametrize("name", ["aa_resnet34", "aa_wide_resnet10_1", "aa_mnasnet0_75"])
def test_augmented_networks_take_each_position_encoding(name: str, position: str) -> None:
    size = small_image(name)
    network = create_model(name, num_classes=5, image_size=size, position=position).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 3, *size)).isfinite().all()


@pytest.mark.parametrize("name", ["aa_resnet34", "aa_wide_resnet10_1", "aa_mnasnet0_75"])
def test_augmented_networks_take_odd_image_sizes(name: str) -> None:
    size = (12, 20) if "wide" in name else (45, 67)
    network = create_model(name, num_classes=5, image_size=size).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 3, *size)).isfinite().all()


def test_fields_of_the_augmentation_can_be_overridden_one_by_one() -> None:
    with torch.device("meta"):
        network = create_model("aa_resnet34", upsilon=0.5, augmented_stages=[4])
    assert network.augmentation == Augmentation([4], pooled_stages=(2,), kappa=0.25, upsilon=0.5)


def test_an_unknown_override_is_rejected_by_name() -> None:
    with pytest.raises(TypeError, match="kapa"):
        create_model("aa_resnet34", kapa=0.5)


def test_the_names_of_a_family_can_be_listed() -> None:
    assert list_models("mnasnet*") == ["mnasnet0_75", "mnasnet1_0", "mnasnet1_25", "mnasnet1_4"]


def test_an_image_size_of_one_number_is_a_square() -> None:
    with torch.device("meta"):
        assert create_model("aa_resnet50", image_size=96).image_size == (96, 96)


def test_the_papers_sizes_are_the_defaults() -> None:
    with torch.device("meta"):
        resnet, wide_resnet = create_model("aa_resnet50"), create_model("aa_wide_resnet10_1")
    assert (resnet.image_size, resnet.fc.out_features) == ((224, 224), 1000)
    assert (wide_resnet.image_size, wide_resnet.fc.out_features) == ((32, 32), 100)


def test_an_unknown_name_is_refused_with_near_misses() -> None:
    with pytest.raises(ValueError, match="no network named 'aa_resnet_50'; did you mean aa_resnet50"):
        create_model("aa_resnet_50")


def test_an_unknown_name_without_near_misses_lists_all_networks() -> None:
    with pytest.raises(ValueError, match=r"aa_mnasnet0_75.*wide_resnet28_10"):
        create_model("!")


@pytest.mark.parametrize("image_size", [0, -32, (32,), (32, 32, 3), (32.0, 32.0), (0, 32)], ids=str)
def test_an_invalid_image_size_is_rejected(image_size: object) -> None:
    with pytest.raises(ValueError, match=r"image_size must be a positive number of pixels or \(H, W\), got"):
        create_model("aa_resnet50", image_size=image_size)


@pytest.mark.parametrize("name", ["resnet50", "aa_resnet50", "aa_mnasnet1_0"])
def test_an_image_too_small_for_the_last_feature_map_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=r"image_size must be at least 32 x 32.* got 31 x 64"):
        create_model(name, image_size=(31, 64))


def test_a_wide_resnet_rejects_sizes_that_are_not_a_multiple_of_4() -> None:
    with pytest.raises(ValueError, match=r"multiples of 4, got \(30, 32\)"):
        create_model("aa_wide_resnet10_1", image_size=(30, 32))


@pytest.mark.parametrize("name", ["aa_resnet34", "aa_wide_resnet10_1", "aa_mnasnet0_75"])
def test_an_augmented_network_refuses_images_of_another_size(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name, image_size=32)
        # Twice the size would pass all layers, since attention halves its input until it fits.
        with pytest.raises(ValueError, match=r"built for images of \(32, 32\), got \(64, 64\)"):
            network(torch.zeros(1, 3, 64, 64))


def test_a_plain_network_takes_any_size() -> None:
    with torch.device("meta"):
        assert create_model("resnet34")(torch.zeros(2, 3, 64, 96)).shape == (2, 1000)


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        create_model("resnet34", num_classes=0)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("resnet50", {"augmented_stages": (5,)}, r"augmented_stages must be among 1, 2, 3, 4, got \(5,\)"),
        ("aa_resnet50", {"pooled_stages": (0,)}, r"pooled_stages must be among 1, 2, 3, 4, got \(0,\)"),
        ("mnasnet1_0", {"augmented_stages": (1,)}, r"augmented_stages must be among 2, 3, 4, 5, 6, 7, got \(1,\)"),
        ("wide_resnet10_1", {"augmented_stages": (4,)}, r"augmented_stages must be among 1, 2, 3, got \(4,\)"),
        ("aa_resnet50", {"upsilon": 2.0}, r"upsilon .* must be within 0\.\.1, got 2.0"),
        ("aa_resnet50", {"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ("aa_resnet50", {"position": "fourier"}, "position must be one of .* got 'fourier'"),
        ("retinanet_small", {"levels": 2}, r"levels must be at least 3, got 2"),
        ("retinanet_small", {"anchor_scales": 0}, "anchor_scales must be at least 1, got 0"),
        ("retinanet_small", {"anchor_base": 0.0}, "anchor_base must be above 0, got 0.0"),
        ("retinanet_small", {"head_norm": "batch"}, "head_norm must be none or group, got 'batch'"),
        ("retinanet_small", {"channels": 20}, "channels must be a multiple of 8 for GroupNorm, got 20"),
        ("retinanet_aa_small", {"augmented_stages": (5,)}, r"augmented_stages must be among 1, 2, 3, 4"),
        ("resnet50", {"stochastic_depth": 1.5}, "stochastic_depth must be a probability below 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_overrides_out_of_range_are_refused(name: str, overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        create_model(name, **overrides)
