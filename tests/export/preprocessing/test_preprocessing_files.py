"""Preprocessing files that people have: HuggingFace's, timm's, and torchvision's by the names of weights."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from aaserve.export.errors import ExportError
from aaserve.export.preprocessing.presets import choose_preprocessing, read_preprocessing
from tests.helpers import ROOT

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
UNSAID = {"background": (255, 255, 255), "exif_orientation": True}
COMMON = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
}
IMAGENET_COMMON = COMMON | {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3}
EFFICIENTNET_STD = [0.47853944, 0.4732864, 0.47434163]  # the class divides by it twice
SQUARED = {"mean": (0.485, 0.456, 0.406), "std": tuple(value**2 for value in EFFICIENTNET_STD)}
FILES = {  # content as such models have it, and what it means
    "google/vit-base-patch16-224": (
        COMMON | {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}},
        {"resize": (224, 224), "crop": (224, 224), "interpolation": "bilinear", **HALF},
    ),
    "an older ViT": (  # without a filter, which is then the class's
        {"feature_extractor_type": "ViTFeatureExtractor", "do_normalize": True, "do_resize": True}
        | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224},
        {"resize": (224, 224), "crop": (224, 224), "interpolation": "bilinear", **HALF},
    ),
    "a ViT with a crop that its class does not use": (
        COMMON
        | {"image_processor_type": "ViTImageProcessor", "size": {"height": 256, "width": 256}}
        | {"crop_size": {"height": 224, "width": 224}},
        {"resize": (256, 256), "crop": (256, 256), "interpolation": "bilinear", **HALF},
    ),
    "openai/clip-vit-base-patch32": (
        {"feature_extractor_type": "CLIPFeatureExtractor", "do_center_crop": True, "do_normalize": True}
        | {"do_resize": True, "crop_size": 224, "resample": 3, "size": 224}
        | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"resize": 224, "crop": (224, 224), "interpolation": "bicubic", **HALF},
    ),
    "microsoft/beit-base-patch16-224": (
        {"feature_extractor_type": "BeitFeatureExtractor", "do_center_crop": False, "do_normalize": True}
        | {"do_resize": True, "crop_size": 224, "resample": 2, "size": 224}
        | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"resize": (224, 224), "crop": (224, 224), "interpolation": "bilinear", **HALF},
    ),
    "google/siglip-base-patch16-224": (
        COMMON | {"image_processor_type": "SiglipImageProcessor", "size": {"height": 224, "width": 224}},
        {"resize": (224, 224), "crop": (224, 224), "interpolation": "bilinear", **HALF},
    ),
    "facebook/deit-base": (
        IMAGENET_COMMON
        | {"image_processor_type": "DeiTImageProcessorFast", "size": {"height": 256, "width": 256}}
        | {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
        {"resize": (256, 256), "crop": (224, 224), "interpolation": "bicubic", **IMAGENET},
    ),
    "microsoft/resnet-50": (
        IMAGENET_COMMON
        | {"feature_extractor_type": "ConvNextFeatureExtractor", "size": {"shortest_edge": 224}, "crop_pct": 0.875},
        {"resize": 256, "crop": (224, 224), "interpolation": "bicubic", **IMAGENET},
    ),
    "facebook/convnext-tiny-224": (  # without crop_pct, which is then the class's
        IMAGENET_COMMON | {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224},
        {"resize": 256, "crop": (224, 224), "interpolation": "bicubic", **IMAGENET},
    ),
    "facebook/convnext-xlarge-384": (
        IMAGENET_COMMON | {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
        {"resize": (384, 384), "crop": (384, 384), "interpolation": "bicubic", **IMAGENET},
    ),
    "google/mobilenet_v2_1.0_224": (
        COMMON
        | {"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 256}}
        | {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
        {"resize": 256, "crop": (224, 224), "interpolation": "bilinear", **HALF},
    ),
    "facebook/levit-128S": (
        IMAGENET_COMMON
        | {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224}}
        | {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
        {"resize": 256, "crop": (224, 224), "interpolation": "bicubic", **IMAGENET},
    ),
    "google/efficientnet-b0": (
        COMMON
        | {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 224, "width": 224}}
        | {"do_center_crop": False, "include_top": True, "resample": 0, "rescale_offset": False}
        | {"image_mean": [0.485, 0.456, 0.406], "image_std": EFFICIENTNET_STD},
        {"resize": (224, 224), "crop": (224, 224), "interpolation": "nearest", **SQUARED},
    ),
    "an EfficientNet with a crop that its class does not use by itself": (
        COMMON
        | {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 346, "width": 346}}
        | {"crop_size": {"height": 289, "width": 289}, "include_top": False},
        {"resize": (346, 346), "crop": (346, 346), "interpolation": "bilinear", **HALF},
    ),
    "an EfficientNet that only divides": (
        COMMON | {"image_processor_type": "EfficientNetImageProcessor", "size": 224, "do_normalize": False},
        {"resize": (224, 224), "crop": (224, 224), "interpolation": "bilinear", "mean": (0, 0, 0), "std": HALF["std"]},
    ),
    "not normalised": (
        COMMON
        | {"image_processor_type": "BitImageProcessor", "do_normalize": False, "size": {"shortest_edge": 256}}
        | {"crop_size": 224},
        {"resize": 256, "crop": (224, 224), "interpolation": "bilinear", "mean": (0, 0, 0), "std": (1, 1, 1)},
    ),
    "rescaled to 0..2": (
        COMMON
        | {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 24}}
        | {"rescale_factor": 2 / 255, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        {"resize": (32, 24), "crop": (32, 24), "interpolation": "bilinear", **HALF},
    ),
    "timm/resnet50.a1_in1k": (
        {
            "architecture": "resnet50",
            "num_classes": 1000,
            "pretrained_cfg": {
                "input_size": [3, 224, 224],
                "fixed_input_size": False,
                "interpolation": "bicubic",
                "crop_pct": 0.95,
                "crop_mode": "center",
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
        },
        {"resize": 235, "crop": (224, 224), "interpolation": "bicubic", **IMAGENET},
    ),
    "timm, squashed": (
        {
            "pretrained_cfg": {"input_size": [3, 384, 320], "interpolation": "bicubic", "crop_pct": 1.0}
            | {"crop_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}
        },
        {"resize": (384, 320), "crop": (384, 320), "interpolation": "bicubic", **HALF},
    ),
}


@pytest.mark.parametrize(("content", "expected"), FILES.values(), ids=FILES)
def test_a_file_of_a_hub_says_all_but_exif_and_background(
    content: dict[str, object], expected: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    stated = read_preprocessing(str(path))
    found = choose_preprocessing(stated, None, UNSAID).model_dump()
    for name in ("mean", "std"):
        np.testing.assert_allclose(found.pop(name), expected[name], rtol=1e-6)
    assert found == {"colour": "RGB", **UNSAID, **{k: v for k, v in expected.items() if k not in ("mean", "std")}}
    with pytest.raises(ExportError) as caught:
        choose_preprocessing(stated, None, {})
    assert str(caught.value) == (
        "preprocessing: background, exif_orientation not stated; "
        "give --background, --exif-orientation or --no-exif-orientation"
    )


VIT, RESNET = FILES["google/vit-base-patch16-224"][0], FILES["microsoft/resnet-50"][0]
BIT = FILES["not normalised"][0]
TIMM = FILES["timm/resnet50.a1_in1k"][0]["pretrained_cfg"]
REFUSED = {
    "another class": (VIT | {"image_processor_type": "DonutImageProcessor"}, "found DonutImageProcessor"),
    "not resized": (VIT | {"do_resize": False}, "expected do_resize true, found False"),
    "BGR": (VIT | {"do_flip_channel_order": True}, "expected do_flip_channel_order false, found True"),
    "padded": (VIT | {"do_pad": True}, "expected do_pad false, found True"),
    "a filter": (VIT | {"resample": 4}, "expected a resample of 0 to 3 (nearest, lanczos, bilinear, bicubic), found 4"),
    "a class unsaid, as google/vit-base-patch16-224": (
        {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224},
        'expected image_processor_type, found none; add it, such as "ViTImageProcessor" for a ViT',
    ),
    "a crop that versions differ in": (
        COMMON | {"image_processor_type": "BeitImageProcessor", "size": 256, "crop_size": 224},
        "expected do_center_crop true or false, found none",
    ),
    "SigLIP's shorter side": (
        COMMON | {"image_processor_type": "SiglipImageProcessor", "size": 224},
        "expected do_center_crop true or a size with height and width, found neither",
    ),
    "ConvNeXT with both sides": (
        RESNET | {"size": {"height": 224, "width": 224}},
        "expected a size with shortest_edge, as in this class, found height and width",
    ),
    "not cropped": (BIT | {"do_center_crop": False}, "expected do_center_crop true or a size with height and width"),
    "another size": (BIT | {"size": {"longest_edge": 224}}, "found longest_edge"),
    "text for numbers": (VIT | {"image_mean": "a"}, "expected numbers as the format has them"),
    "a list for numbers": (VIT | {"size": []}, "expected numbers as the format has them"),
    "text for a crop": (RESNET | {"crop_pct": "a"}, "expected numbers as the format has them"),
    "timm's border": ({"pretrained_cfg": TIMM | {"crop_mode": "border"}}, "found border of 224x224"),
    "timm, no square": ({"pretrained_cfg": TIMM | {"input_size": [3, 224, 192]}}, "found center of 224x192"),
    "timm, grey": ({"pretrained_cfg": TIMM | {"input_size": [1, 28, 28]}}, "expected an input_size of 3 channels"),
    "timm, two sides": ({"pretrained_cfg": TIMM | {"input_size": [224, 224]}}, "expected numbers as the format has"),
    "a model's config": (
        {"architectures": ["ViTForImageClassification"], "hidden_size": 768},
        "expected a TOML file with a [preprocessing] table, preprocessor_config.json of HuggingFace, or config.json of "
        "timm with pretrained_cfg, found architectures, hidden_size",
    ),
    "an empty object": ({}, "found nothing"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_of_a_model_that_the_service_cannot_follow_are_refused_in_one_line(
    content: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError) as caught:
        read_preprocessing(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "unsaid"),
    [
        (RESNET | {"resample": None}, "--interpolation"),  # the class's differs between versions
        ({"pretrained_cfg": TIMM | {"mean": None}}, "--mean"),
        ({"pretrained_cfg": TIMM | {"crop_pct": None}}, "--resize"),
    ],
    ids=["resample", "mean", "crop_pct"],
)
def test_null_is_unsaid(content: dict[str, object], unsaid: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=f"not stated; give {unsaid}$"):
        choose_preprocessing(read_preprocessing(str(path)), None, UNSAID)


def test_a_table_may_leave_fields_to_options(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text('[preprocessing]\ncolour = "RGB"\nresize = 32\ncrop = [32, 32]\ninterpolation = "bicubic"\n')
    stated = read_preprocessing(str(path))
    with pytest.raises(
        ExportError, match="give --background, --exif-orientation or --no-exif-orientation, --mean, --st"
    ):
        choose_preprocessing(stated, None, {})
    assert choose_preprocessing(stated, None, UNSAID | HALF).resize == 32


WEIGHTS = {
    "ResNet50_Weights.IMAGENET1K_V1": (256, 224, "bilinear"),
    "ResNet50_Weights.IMAGENET1K_V2": (232, 224, "bilinear"),
    "EfficientNet_B1_Weights.IMAGENET1K_V2": (255, 240, "bilinear"),
    "ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1": (518, 518, "bicubic"),
}


@pytest.mark.parametrize(("name", "expected"), WEIGHTS.items(), ids=WEIGHTS)
def test_weights_of_torchvision_are_known_by_name(name: str, expected: tuple[int, int, str]) -> None:
    found = choose_preprocessing(read_preprocessing(name), None, UNSAID)
    assert (found.resize, found.crop, found.interpolation) == (expected[0], (expected[1],) * 2, expected[2])
    assert (found.mean, found.std) == (IMAGENET["mean"], IMAGENET["std"])


def test_every_preset_of_torchvision_is_whole_and_each_name_is_there_once() -> None:
    text = (ROOT / "export" / "preprocessing" / "torchvision.toml").read_text()
    names = re.findall(r"\w+_Weights\.\w+", text)
    assert len(names) == len(set(names)) == 115
    for name in names:
        choose_preprocessing(read_preprocessing(name), None, UNSAID)


def test_unknown_weights_are_refused_with_names_like_it() -> None:
    with pytest.raises(ExportError) as caught:
        read_preprocessing("ResNet50_Weights.DEFAULT")
    assert "such as ResNet50_Weights.IMAGENET1K_V2" in str(caught.value)
