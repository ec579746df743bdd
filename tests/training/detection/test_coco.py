"""Instances files: what is taken from them, what is changed, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aaserve.bundle.coco.instances import Split, find_split, read_split
from aaserve.training import command
from aaserve.training.detection.task import open_coco
from aaserve.training.task import task_of
from tests.helpers import encode
from tests.training.detection.squares import CATEGORIES, SHIPPED_RECIPE, detector, write_instances, write_pictures
from tests.training.tiny import CPU

IMAGE = {"id": 1, "file_name": "one.png", "width": 40, "height": 30}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "one.png")
    return tmp_path


def annotated(folder: Path, *annotations: dict[str, Any]) -> Split:
    listed = [{"image_id": 1, "category_id": 3, "bbox": [5, 5, 10, 10], **one} for one in annotations]
    return read_split(write_instances(folder, "train", [IMAGE], listed), folder / "images")


def test_labels_are_in_the_order_of_the_numbers_of_their_categories(folder: Path) -> None:
    split = annotated(folder, {"category_id": 7}, {"category_id": 3})
    assert split.labels == ("green", "red")
    assert split.pictures[0].classes.tolist() == [1, 0]
    assert split.pictures[0].boxes.tolist() == [[5, 5, 15, 15]] * 2
    assert str(split) == "instances_train.json: 1 pictures, 2 boxes of 2 classes"


def test_boxes_are_cut_off_at_the_edges_and_left_out_if_nothing_is_left(folder: Path) -> None:
    split = annotated(
        folder,
        {"bbox": [30, -4, 20, 10]},
        {"bbox": [5, 5, 0, 10]},
        {"bbox": [5, 5, 10, -2]},
        {"bbox": [50, 5, 10, 10]},
        {"bbox": [0, 0, 40.4, 30]},  # rounding
    )
    assert split.pictures[0].boxes.tolist() == [[30, 0, 40, 6], [0, 0, 40, 30]]
    assert str(split) == (
        "instances_train.json: 1 pictures, 2 boxes of 2 classes; no boxes of 1 classes (red); "
        "1 boxes cut off at the edges of their pictures; 2 boxes left out, without an area; "
        "1 boxes left out, outside of their pictures"
    )


def test_pictures_without_boxes_and_crowds_are_valid(folder: Path) -> None:
    assert str(annotated(folder)).endswith("0 boxes of 2 classes; 1 pictures without boxes")
    split = annotated(folder, {"iscrowd": 1}, {})
    assert split.pictures[0].crowd.tolist() == [True, False]
    assert str(split).endswith("; 1 boxes of crowds, which are not learned")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda c: c["annotations"][0].update(category_id=9), "annotations.0: category_id 9 is not in ca"),
        pytest.param(lambda c: c["annotations"][0].update(image_id=9), "annotations.0: image_id 9 is not in images"),
        pytest.param(lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "annotations.0.bbox"),
        pytest.param(lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "annotations.0.bbox.3"),
        pytest.param(lambda c: c["annotations"][0].update(bbox=["1", 2, 3, 4]), "annotations.0.bbox.0"),
        pytest.param(lambda c: c.pop("annotations"), "annotations: Field required"),
        pytest.param(lambda c: c.update(images=[]), "images: List should have at least 1 item"),
        pytest.param(lambda c: c["images"].append(IMAGE), "expected images of different ids"),
        pytest.param(lambda c: c["categories"].append(CATEGORIES[0]), "expected categories of different ids, found 7"),
        pytest.param(
            lambda c: c["categories"].append({"id": 8, "name": "red"}),
            "expected categories of different names, found 'red'",
        ),
        pytest.param(lambda c: c["categories"][0].update(name="a\nb"), "expected a line of text"),
        pytest.param(
            lambda c: c["images"].extend(
                [{**IMAGE, "id": 2, "file_name": "gone.png"}, {**IMAGE, "id": 3, "file_name": "x"}]
            ),
            "gone.png: listed in instances_train.json and not there, nor are 1 more",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_in_one_line(
    folder: Path, change: Callable[[dict], Any], message: str
) -> None:
    annotation = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 10, 10]}
    file = write_instances(folder, "train", [IMAGE], [annotation])
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_split(file, folder / "images")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_no_json_is_refused_in_one_line(folder: Path) -> None:
    file = folder / "instances_train.json"
    file.write_text("[")
    with pytest.raises(ValueError, match=r"instances_train\.json: Invalid JSON") as caught:
        read_split(file, folder / "images")
    assert len(str(caught.value).splitlines()) == 1


def test_a_byte_order_mark_is_no_part_of_the_file_and_other_encodings_are_named(folder: Path) -> None:
    file = write_instances(folder, "train", [IMAGE], [])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_split(file, folder / "images").labels == ("green", "red")
    file.write_text(file.read_text(encoding="utf-8-sig"), encoding="utf-16")
    with pytest.raises(ValueError, match=r"instances_train\.json: expected UTF-8 text, found UTF-16"):
        read_split(file, folder / "images")


def test_the_official_names_of_folders_and_files_are_found(tmp_path: Path) -> None:
    write_pictures(tmp_path, "train", 2)
    (tmp_path / "annotations").mkdir()
    file = (tmp_path / "instances_train.json").rename(tmp_path / "annotations" / "instances_train2017.json")
    assert find_split(tmp_path, "train") == (file, tmp_path / "images")
    own = (tmp_path / "images").rename(tmp_path / "train2017")
    assert find_split(tmp_path, "train") == (file, own)
    assert find_split(tmp_path, "val") is None
    own.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="expected the folder of the pictures of instances_train2017"):
        find_split(tmp_path, "train")
    (tmp_path / "instances_train.json").touch()
    with pytest.raises(ValueError, match="expected one instances_train"):
        find_split(tmp_path, "train")


def test_one_instances_file_is_for_training_and_for_testing(tmp_path: Path) -> None:
    write_pictures(tmp_path, "", 4)
    data = open_coco(tmp_path, detector())
    assert data.labels == ("green", "red")
    assert len(data.training) == len(data.test) == 4
    assert data.found[1].startswith("tests on the pictures that it trains with")


def test_the_split_to_test_on_is_val_or_the_one_that_is_asked_for(squares: Path, tmp_path: Path) -> None:
    for file in ("instances_train.json", "instances_val.json"):
        (tmp_path / file).write_text((squares / file).read_text())
    (tmp_path / "images").symlink_to(squares / "images")
    write_instances(tmp_path, "test", [{**IMAGE, "file_name": "val1.png"}], [])
    data = open_coco(tmp_path, detector())
    assert len(data.test) == 6
    assert data.found[2:] == ("instances_test.json is not read, since there is instances_val.json",)
    with pytest.raises(ValueError, match=r"instances_test\.json: expected boxes, found none"):
        open_coco(tmp_path, detector(), "test")
    (tmp_path / "instances_test.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected instances_test\.json; found images, instances_train"):
        open_coco(tmp_path, detector(), "test")


def test_the_command_refuses_data_that_does_not_fit_in_one_line(
    squares: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    def refused(folder: Path, message: str) -> None:
        assert command.main([str(SHIPPED_RECIPE), "--data", str(folder), "--output", str(tmp_path / "run")]) == 1
        error = capfd.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert len(error.splitlines()) == 1

    refused(tmp_path / "nowhere", "no such folder; --data names the folder that holds instances_train.json and")
    refused(tmp_path, "expected instances_train.json and")
    (tmp_path / "images").symlink_to(squares / "images")
    (tmp_path / "instances_train.json").write_text((squares / "instances_train.json").read_text())
    others = [{"id": 3, "name": "green"}, {"id": 4, "name": "blue"}]
    write_instances(tmp_path, "val", [{**IMAGE, "file_name": "val1.png"}], [], others)
    refused(
        tmp_path,
        "expected the 2 categories of instances_train.json, in the order of their ids (green, red), found 2: g",
    )


def test_a_picture_of_another_size_than_listed_is_refused(folder: Path) -> None:
    listed = [{**IMAGE, "width": 41}]
    write_instances(folder, "", listed, [{"image_id": 1, "category_id": 3, "bbox": [5, 5, 10, 10]}])
    data = open_coco(folder, detector())
    for pictures in (data.training, data.test):
        with pytest.raises(ValueError, match=r"one\.png: expected 41x30 pixels, as listed, found 40x30"):
            next(pictures.batches([[0]], (0, 0)))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "not a JPEG, PNG,"),
        (encode(Image.new("RGB", (9, 9)), "PNG"), "expected 96x64 pixels, as listed"),
    ],
    ids=["no picture", "another size"],
)
def test_a_bad_picture_stops_the_run_before_it_trains(tmp_path: Path, split: str, content: bytes, message: str) -> None:
    write_pictures(tmp_path, "train", 4)
    write_pictures(tmp_path, "val", 2, seed=1)
    (tmp_path / "images" / f"{split}1.png").write_bytes(content)
    chosen = detector()
    with pytest.raises(ValueError, match=rf"{split}1\.png: {message}"):
        task_of(chosen).open_data(tmp_path, CPU.device)


def test_classes_without_boxes_are_told(folder: Path) -> None:
    assert str(annotated(folder, {})).endswith("; no boxes of 1 classes (red)")
    assert "no boxes" not in str(annotated(folder, {}, {"category_id": 7}))
