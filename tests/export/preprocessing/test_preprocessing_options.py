"""Preprocessing as typed: a preset, a file, the checkpoint's own, and single fields over all of them."""

from pathlib import Path

import pytest

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.command import _parser
from aaserve.export.errors import ExportError
from aaserve.export.preprocessing.presets import PRESETS, choose_preprocessing, read_preprocessing
from tests.helpers import ROOT

RECIPE = ROOT / "training" / "recipes" / "aa_cifar100.toml"
COMPLETE = {
    "background": (0, 0, 0),
    "exif_orientation": False,
    "resize": 20,
    "interpolation": "nearest",
    "crop": (16, 16),
    "mean": (0.1, 0.2, 0.3),
    "std": (1.0, 1.0, 1.0),
}


def test_the_imagenet_preset_is_torchvisions_and_must_be_typed() -> None:
    preset = read_preprocessing("imagenet")
    assert (preset["resize"], preset["crop"], preset["interpolation"]) == (256, (224, 224), "bilinear")
    assert (preset["mean"], preset["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with pytest.raises(ExportError, match="not stated; give "):
        choose_preprocessing(None, None, {})


def test_typed_fields_replace_single_ones_of_preset_file_and_checkpoint() -> None:
    recorded = read_preprocessing(str(RECIPE))
    for typed, origin in (
        (read_preprocessing("imagenet"), None),
        (read_preprocessing(str(RECIPE)), None),
        (None, recorded),
    ):
        base = choose_preprocessing(typed, origin, {})
        found = choose_preprocessing(typed, origin, {"interpolation": "lanczos", "mean": (0.1, 0.2, 0.3)})
        assert found == base.model_copy(update={"interpolation": "lanczos", "mean": (0.1, 0.2, 0.3)})


def test_typed_options_win_over_those_of_the_checkpoint() -> None:
    recorded = read_preprocessing(str(RECIPE))
    assert choose_preprocessing(read_preprocessing("imagenet"), recorded, {}) == PRESETS["imagenet"]


def test_all_fields_typed_need_no_file() -> None:
    assert choose_preprocessing(None, None, COMPLETE) == Preprocessing(colour="RGB", **COMPLETE)


def test_a_reduced_size_is_off_unless_said_and_kept_once_said() -> None:
    assert choose_preprocessing(None, None, COMPLETE).jpeg_reducing_gap is None
    recorded = choose_preprocessing(None, None, COMPLETE | {"jpeg_reducing_gap": 2.5}).model_dump(mode="json")
    assert choose_preprocessing(None, recorded, {}).jpeg_reducing_gap == 2.5
    assert choose_preprocessing(None, recorded, {"jpeg_reducing_gap": 4.0}).jpeg_reducing_gap == 4


@pytest.mark.parametrize("field", COMPLETE)
def test_a_missing_field_is_named_and_not_guessed(field: str) -> None:
    rest = {name: value for name, value in COMPLETE.items() if name != field}
    with pytest.raises(ExportError, match=rf"^preprocessing: {field} not stated; give --"):
        choose_preprocessing(None, None, rest)


IMAGENET_255 = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
DIVIDED = "mean 0.485,0.456,0.406 and std 0.229,0.224,0.225"
STRANGE_NORMALISATIONS = {
    "of 0..255": (IMAGENET_255, f"look like values for 0..255, divided by 255 they are {DIVIDED}"),
    "mean of 0..255 alone": ({"mean": IMAGENET_255["mean"]}, "divided by 255 they are mean 0.485,0.456,0.406"),
    "mean of 0..255, no std": ({**IMAGENET_255, "std": (1.0, 1.0, 1.0)}, "std 0.003922,0.003922,0.003922"),
    "std of 0..255 alone": ({"std": IMAGENET_255["std"]}, "expected values for RGB in 0..1"),
    "large": ({"mean": (1000.0, 0.0, 0.0)}, "expected values for RGB in 0..1"),
    "tiny std": ({"std": (1e-6, 1.0, 1.0)}, "expected values for RGB in 0..1"),
}


@pytest.mark.parametrize(("changes", "message"), STRANGE_NORMALISATIONS.values(), ids=STRANGE_NORMALISATIONS.keys())
def test_a_typed_normalisation_that_cannot_be_meant_is_refused(changes: dict[str, object], message: str) -> None:
    strange = COMPLETE | {"std": (0.2, 0.2, 0.2)} | changes
    for typed, fields in ((None, strange), (strange | {"colour": "RGB"}, {})):
        with pytest.raises(ExportError) as caught:
            choose_preprocessing(typed, None, fields)
        assert message in str(caught.value)
    recorded = Preprocessing(colour="RGB", **strange).model_dump(mode="json")
    assert choose_preprocessing(None, recorded, {"crop": (8, 8)}).crop == (8, 8)  # it was trained with them


@pytest.mark.parametrize(
    "changes",
    [{"mean": (0, 0, 0), "std": (1 / 255,) * 3}, {"mean": (-1, -1, -1), "std": (2, 2, 2)}, {"mean": (1, 1, 1)}],
    ids=["takes 0..255", "takes 0.5..1", "takes -1..0"],
)
def test_unusual_normalisations_that_networks_do_have_are_allowed(changes: dict[str, object]) -> None:
    assert choose_preprocessing(None, None, COMPLETE | changes)


@pytest.mark.parametrize("content", ["nonsense", "x = 1"], ids=["no TOML", "no table"])
def test_an_invalid_preprocessing_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "file.toml").write_text(content)
    with pytest.raises(ExportError, match=r"file\.toml: expected"):
        read_preprocessing(str(tmp_path / "file.toml"))
    with pytest.raises(ExportError, match=r"expected a TOML file .*, or imagenet or .*, found: No such file"):
        read_preprocessing("imagenet1k")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("--resize", "256", 256),
        ("--resize", "20x30", (20, 30)),
        ("--crop", "224", (224, 224)),
        ("--crop", "16x24", (16, 24)),
        ("--mean", "0.5,0.4,0.3", (0.5, 0.4, 0.3)),
        ("--background", "255,0,255", (255, 0, 255)),
        ("--jpeg-reducing-gap", "3", 3.0),
    ],
)
def test_fields_are_read_as_typed(option: str, text: str, value: object) -> None:
    typed = _parser().parse_args(["file", "--name", "x", "--version", "1", option, text])
    assert getattr(typed, option.lstrip("-").replace("-", "_")) == value


@pytest.mark.parametrize("words", [("--mean", "0.5,0.5"), ("--std", "a,b,c"), ("--resize", "0"), ("--crop", "1x2x3")])
def test_misspelt_fields_end_with_usage(words: tuple[str, str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["file", "--name", "x", "--version", "1", *words])
    assert f"argument {words[0]}: expected" in capsys.readouterr().err
