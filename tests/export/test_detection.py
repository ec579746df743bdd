"""python -m export with a detector that python -m training has trained: the bundle, what serves it, what judges it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from aaserve.bundle.bundle import Bundle, open_bundle, sha256_of, write_bundle
from aaserve.bundle.coco.average_precision import in_picture
from aaserve.bundle.coco.instances import read_split
from aaserve.bundle.detections import Detections, detections_of_batch, difference, intersection_over_union
from aaserve.bundle.model_input import read_input
from aaserve.bundle.references.references import read_references
from aaserve.export import command, evaluate, summary, verify
from aaserve.export.accuracy.answers import in_batches, on_the_cpu
from aaserve.export.accuracy.boxes import score_boxes
from aaserve.models import create_model
from aaserve.models.networks.retinanet.detections import detect
from aaserve.models.networks.retinanet.network import RetinaNet
from aaserve.training.detection.evaluate import evaluate as evaluate_network
from aaserve.training.detection.task import open_coco
from tests.helpers import running_service
from tests.training.detection.squares import LEARNING, write_instances, write_pictures
from tests.training.tiny import CPU

pytestmark = pytest.mark.usefixtures("speed_in_one_round")

LABELS = ("green", "red")


@pytest.fixture(scope="module")
def trained(trained_detector: Path) -> Path:
    """A folder with `run/model.safetensors` and the data set that the detector learned from, `squares`."""
    return trained_detector


def export(trained: Path, repository: Path, *options: object) -> int:
    return command.main(
        [
            *(str(trained / "run" / "model.safetensors"), "--name", "squares", "--version", "1"),
            *("--max-batch-size", "5", "--repository", str(repository)),
            *("--parity-images", str(trained / "squares" / "images"), *map(str, options)),
        ]
    )


@pytest.fixture(scope="module")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With the threshold that training evaluates with."""
    repository = tmp_path_factory.mktemp("repository")
    assert export(trained, repository, "--score-threshold", 0.01) == 0
    return open_bundle(repository / "squares" / "1")


def network(trained: Path) -> RetinaNet:
    made = create_model("retinanet_small", num_classes=2, image_size=(64, 96), **LEARNING.network.options)
    made.load_state_dict(load_file(trained / "run" / "model.safetensors"))
    return made.eval()


def test_the_bundle_says_what_it_is_and_answers_as_the_network(trained: Path, bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.task, manifest.architecture, manifest.labels) == ("detection", "retinanet_small", LABELS)
    assert manifest.preprocessing == LEARNING.preprocessing
    assert [(output.name, output.shape) for output in manifest.outputs] == [
        ("boxes", (100, 4)),
        ("scores", (100,)),
        ("classes", (100,)),
        ("count", ()),
    ]
    assert manifest.suppression.model_dump() == {"score_threshold": 0.01, "iou_threshold": 0.5}
    assert (manifest.parity.images, manifest.parity.batch_sizes) == (44, (1, 2, 5))
    assert manifest.parity.detections > 44
    assert manifest.parity.max_difference <= manifest.parity.tolerance == 1e-4
    assert manifest.parity.least_iou >= manifest.parity.iou_tolerance == 0.99
    operators = {(node.domain, node.op_type) for node in onnx.load(bundle.model_path).graph.node}
    assert ("", "NonMaxSuppression") in operators
    assert {domain for domain, _ in operators} == {""}

    made, ask = network(trained), on_the_cpu(bundle)
    pictures = sorted((trained / "squares" / "images").glob("val*.png"))
    rows = np.stack([read_input(path.read_bytes(), manifest, max_pixels=10**6) for path in pictures])
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (manifest.preprocessing.mean, manifest.preprocessing.std)
    )
    with torch.inference_mode():
        logits, deltas = made((torch.from_numpy(rows).permute(0, 3, 1, 2) / 255 - mean) / std)
    expected = detect(logits, deltas, made.anchors, image_size=(64, 96), score_threshold=0.01)
    for batch in (1, 2, 8):
        found = ask(rows[:batch])
        for row in range(batch):
            apart = difference(*(_row(answer, row) for answer in (found, expected._asdict())), score_threshold=0.02)
            assert apart.compared > 0
            assert apart.score < 1e-3
            assert apart.iou > 0.98


def _row(answer: dict, row: int) -> Detections:
    count = int(answer["count"][row])
    return Detections(*(np.asarray(answer[name][row][:count]) for name in Detections._fields))


def test_verify_and_inspect_know_detectors(trained: Path, bundle: Bundle, capsys: pytest.CaptureFixture) -> None:
    assert verify.main([str(bundle.folder)]) == 0
    assert "45 pictures answered as when it was made, scores within " in capsys.readouterr().out
    assert summary.main([str(bundle.folder)]) == 0
    shown = capsys.readouterr().out
    assert "letterbox (64, 96), bilinear" in shown
    assert "up to 100 detections with scores above 0.01" in shown
    assert "detections of 44 pictures as the original's" in shown


def test_verify_refuses_other_detections(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stored = json.loads((bundle.folder / "references.json").read_text())
    index = next(number for number, one in enumerate(stored) if one["detections"]["scores"])
    stored[index]["detections"]["classes"][0] ^= 1
    content = {"model.onnx": bundle.model_path.read_bytes(), "references.json": json.dumps(stored).encode()}
    files = {name: sha256_of(data) for name, data in content.items()}
    folder = write_bundle(tmp_path, bundle.manifest.model_copy(update={"files": files}), content)
    assert verify.main([str(folder)]) == 1
    assert f"{stored[index]['picture']}: expected the stored detections" in capsys.readouterr().err


def test_the_bundle_is_served(trained: Path, bundle: Bundle) -> None:
    """Boxes are in pixels of the picture, and some are those of the instances file."""
    split = read_split(trained / "squares" / "instances_val.json", trained / "squares" / "images")
    manifest, ask = bundle.manifest, on_the_cpu(bundle)
    matched = 0
    with running_service(repository=bundle.folder.parent.parent) as service:
        for picture in split.pictures:
            image = picture.path.read_bytes()
            [row] = detections_of_batch(ask(read_input(image, manifest, max_pixels=10**6)[np.newaxis]))
            expected = in_picture(row, picture, manifest.preprocessing)
            certain = expected.scores >= 0.5
            answer = service.client.post(
                "/detect", content=image, headers={"Content-Type": "application/octet-stream"}
            ).json()
            assert answer["image"] == {"width": picture.width, "height": picture.height}
            found = answer["detections"]
            boxes = np.array([list(one["box"].values()) for one in found]).reshape(-1, 4)
            np.testing.assert_allclose(boxes, expected.boxes[certain], atol=0.01)
            assert [one["class_index"] for one in found] == expected.classes[certain].tolist()
            assert [one["label"] for one in found] == [LABELS[number] for number in expected.classes[certain]]
            matched += int((intersection_over_union(picture.boxes, boxes).max(axis=1, initial=0) > 0.5).sum())
    assert matched > 0


def test_its_average_precision_is_that_of_the_network(
    trained: Path, bundle: Bundle, capsys: pytest.CaptureFixture
) -> None:
    data = open_coco(trained / "squares", LEARNING, "test")
    expected = evaluate_network(network(trained), data.test, LEARNING.preprocessing, CPU, 2)
    found = score_boxes(on_the_cpu(bundle), bundle.manifest, in_batches(data.test.pictures, bundle.manifest))
    assert found.ap == pytest.approx(expected.ap, abs=1e-4)
    assert (found.images, found.of_classes[0]) == (4, pytest.approx(expected.of_classes[0], abs=1e-4))

    assert evaluate.main([str(bundle.folder), str(trained / "squares"), "--split", "test"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{found} of 4 pictures (squares, test)\n"
    assert "instances_test.json: 4 pictures" in printed.err
    accuracy = open_bundle(bundle.folder).manifest.accuracy
    assert (accuracy.ap, accuracy.ap_50, accuracy.ap_75) == (found.ap, found.ap_50, found.ap_75)

    assert evaluate.main([str(bundle.folder), str(trained / "squares"), "--dry-run", "--dataset", "mine"]) == 0
    assert capsys.readouterr().out.endswith(f" of 8 pictures (mine); before: {found} of 4 pictures (squares, test)\n")


def test_pictures_that_do_not_fit_are_refused(
    trained: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path, *options: str) -> str:
        assert evaluate.main([str(bundle.folder), str(folder), *options]) == 1
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    assert "expected the annotations of pictures (instances_train.json and" in refused(trained / "squares" / "images")
    write_pictures(tmp_path, "val", 2)
    assert "(instances_test.json), found none" in refused(tmp_path, "--split", "test")
    content = json.loads((tmp_path / "instances_val.json").read_text())
    other = [{"id": 3, "name": "blue"}, *content["categories"][:1]]
    write_instances(tmp_path, "val", content["images"], content["annotations"], other)
    assert "(green, red), found 2: blue, red" in refused(tmp_path)
    crowds = [one | {"iscrowd": 1} for one in content["annotations"]]
    for annotations, end in (([], "found none"), (crowds, "found none but those of crowds")):
        write_instances(tmp_path, "val", content["images"], annotations)
        with monkeypatch.context() as patch:
            patch.setattr(evaluate, "evaluate", None)  # nothing is evaluated
            assert refused(tmp_path) == f"error: {tmp_path}/instances_val.json: expected boxes, {end}"
    for image in content["images"]:
        image["width"] += 1
    write_instances(tmp_path, "val", content["images"], content["annotations"])
    assert "expected 97x64 pixels, as listed, found 96x64" in refused(tmp_path)


def test_int8_is_judged_by_average_precision_where_pictures_are_annotated(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ("--precision", "int8", "--calibration", trained / "squares", "--allow-drop", 50)
    assert export(trained, tmp_path, *options) == 0, capsys.readouterr().err
    manifest = open_bundle(tmp_path / "squares" / "1").manifest
    lowered = manifest.lowered
    assert (lowered.judged, lowered.calibrated) == (8, 32)
    assert lowered.ap_fp32 > 0.2
    assert lowered.ap > lowered.ap_fp32 - 0.5
    assert f"AP {lowered.ap:.2%}, fp32 {lowered.ap_fp32:.2%}" in capsys.readouterr().err
    graph = onnx.load(tmp_path / "squares" / "1" / "model.onnx").graph
    assert manifest.precision == "int8"
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 10
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    for head in ("class_head", "box_head"):  # the first convolution of a head is in 8 bits, the last one is not
        assert [any(name.endswith(f"{head}.{place}.weight") for name in floats) for place in (0, 3)] == [False, True]
    assert verify.main([str(tmp_path / "squares" / "1")]) == 0
    assert summary.main([str(tmp_path / "squares" / "1")]) == 0
    assert f"AP {lowered.ap:.2%}, fp32" in capsys.readouterr().out


def test_fp16_is_judged_by_agreement_where_they_are_not(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert export(trained, tmp_path, "--precision", "fp16", "--allow-drop", 5) == 0, capsys.readouterr().err
    opened = open_bundle(tmp_path / "squares" / "1")
    assert (opened.manifest.lowered.ap, opened.manifest.lowered.judged) == (None, 44)
    assert opened.manifest.lowered.agreement >= 0.95
    assert "which have no annotations" in capsys.readouterr().err
    assert {output.type.tensor_type.elem_type for output in onnx.load(opened.model_path).graph.output} == {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }
    assert verify.main([str(opened.folder)]) == 0
    assert read_references(opened.folder / "references.json")[0].detections is not None


REFUSED = {
    "attention": (("--with-attention",), "--with-attention: for classifiers only"),
    "crop": (("--fit", "crop", "--resize", "64x96"), "a detector needs all of a picture"),
    "int8 weights": (("--store-weights", "int8"), "--store-weights int8: rounds Linear layers"),
    "accuracy": (("--accuracy", "{folder}/accuracy.json"), "--accuracy: for classifiers only"),
    "too many": (("--max-detections", "1001"), "--max-detections: expected at most 1000"),
    "no annotations": (("--precision", "int8", "--calibration", "{folder}/empty"), "expected two pictures or more"),
    "one annotated": (
        ("--precision", "int8", "--calibration", "{folder}/one"),
        "instances.json: expected two pictures or more, found 1",
    ),
    "no boxes": (
        ("--precision", "int8", "--calibration", "{folder}/bare"),
        "instances_val.json: expected boxes, found none",
    ),
    "no boxes to judge by": (
        ("--precision", "int8", "--calibration", "{folder}/half"),
        "instances_train.json: expected boxes in the pictures that do not calibrate (1), found none",
    ),
    "another label": (("--precision", "int8", "--calibration", "{folder}/other"), "found 2: blue, red"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_detector_cannot_do_is_refused(
    trained: Path, tmp_path: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    accuracy = {"dataset": "x", "images": 1, "top_1": 1, "top_5": 1, "measured": "x"}
    (tmp_path / "accuracy.json").write_text(json.dumps({"accuracy": accuracy, "model": {"sha256": "0" * 64}}))
    write_pictures(tmp_path / "other", "val", 2)
    content = json.loads((tmp_path / "other" / "instances_val.json").read_text())
    write_instances(
        tmp_path / "other", "val", content["images"], [], [{"id": 3, "name": "blue"}, {"id": 7, "name": "red"}]
    )
    for name, split, count in (("one", "", 1), ("bare", "train", 2), ("bare", "val", 1), ("half", "train", 2)):
        write_pictures(tmp_path / name, split, count)
    listed = json.loads((tmp_path / "half" / "instances_train.json").read_text())
    write_instances(tmp_path / "half", "train", listed["images"][::-1], listed["annotations"])  # the bare one judges
    assert export(trained, tmp_path / "repository", *(option.format(folder=tmp_path) for option in options)) == 1
    said = capsys.readouterr().err
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert message in line
    if "--calibration" in options:
        assert "tracing" not in said  # it is known before what takes long
    assert not (tmp_path / "repository").exists()
