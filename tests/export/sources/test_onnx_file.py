"""python -m export model.onnx, as a user types it: classifiers of other exporters."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aaserve.bundle.bundle import Bundle, open_bundle
from aaserve.bundle.preprocessing import preprocess, read_pixels
from aaserve.export import evaluate, summary, verify
from aaserve.export.graph.runtime import Graph
from tests.export.sources.classifiers import LABELS, SIDE, Run, classifier
from tests.helpers import EXAMPLES, running_service


def bundle(folder: Path) -> Bundle:
    return open_bundle(folder / "repository" / "given" / "1")


def assert_answers_as(opened: Bundle, answers: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """`answers` of the uint8 pixels NHWC and of the normalised ones NCHW, against softmax of the bundle's logits."""
    image_bytes = (EXAMPLES / "cat.jpg").read_bytes()
    spec = opened.manifest.preprocessing
    pixels = read_pixels(image_bytes, spec, max_pixels=10**7, reproducible=True)[None]
    inputs = preprocess(image_bytes, spec, max_pixels=10**7, reproducible=True)[None]
    found = Graph(opened.model_path.read_bytes(), spec)(pixels)
    np.testing.assert_allclose(softmax(found), answers(pixels, inputs), atol=1e-6)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def answer(model: onnx.ModelProto, picture: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"picture": picture})[0]


def nhwc(inputs: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(inputs, 1, 3))


FORMS = {
    "float32 NCHW": (classifier(), lambda pixels, inputs: inputs),
    "float32 NHWC": (classifier(layout="NHWC"), lambda pixels, inputs: nhwc(inputs)),
    "uint8 NHWC": (classifier(layout="NHWC", kind=TensorProto.UINT8), lambda pixels, inputs: pixels),
    "uint8 NCHW": (classifier(kind=TensorProto.UINT8), lambda pixels, inputs: np.moveaxis(pixels, 3, 1)),
    "any height and width": (classifier(sides=("h", "w")), lambda pixels, inputs: inputs),
    "opset 11": (classifier(opset=11), lambda pixels, inputs: inputs),
    "an unused domain": (classifier(domains=["ai.onnx.ml"]), lambda pixels, inputs: inputs),
}


@pytest.mark.parametrize(("model", "form"), FORMS.values(), ids=FORMS)
def test_a_file_becomes_a_bundle_that_takes_pixels_and_answers_as_the_file(
    model: onnx.ModelProto, form: Callable[[np.ndarray, np.ndarray], np.ndarray], tmp_path: Path, run: Run
) -> None:
    status, said = run(model)
    assert status == 0, said
    opened = bundle(tmp_path)
    manifest = opened.manifest
    assert (manifest.input.dtype, manifest.input.shape) == ("uint8", (SIDE, SIDE, 3))
    assert (manifest.architecture, manifest.max_batch_size) == ("given.onnx", None)
    assert manifest.parity.batch_sizes == (1, 2, 3)
    assert_answers_as(opened, lambda pixels, inputs: softmax(answer(model, form(pixels, inputs))))
    graph = onnx.load(opened.model_path).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert verify.main([str(opened.folder)]) == 0
    uint8 = model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert ("mean and std are not applied" in said) == uint8
    assert (manifest.preprocessing.mean == (0, 0, 0)) == uint8


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_normalisation_may_stay_outside(layout: str, tmp_path: Path, run: Run) -> None:
    model = classifier(layout=layout)
    status, said = run(model, "--input", "float32")
    assert status == 0, said
    assert bundle(tmp_path).manifest.input.shape == (3, SIDE, SIDE)
    assert_answers_as(
        bundle(tmp_path),
        lambda _, inputs: softmax(answer(model, inputs if layout == "NCHW" else nhwc(inputs))),
    )


BY_HAND = [
    helper.make_node("Exp", ["answer"], ["powers"]),
    helper.make_node("ReduceSum", ["powers", "last"], ["sum"], keepdims=1),
    helper.make_node("Div", ["powers", "sum"], ["probabilities"]),
]


@pytest.mark.parametrize("by_hand", [False, True], ids=["Softmax", "Exp and Div"])
def test_probabilities_become_logits_of_the_same_probabilities(by_hand: bool, tmp_path: Path, run: Run) -> None:
    ends = BY_HAND if by_hand else [helper.make_node("Softmax", ["answer"], ["probabilities"], axis=-1)]
    model = classifier(ends=ends, output="probabilities")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "last"))
    status, said = run(model)
    assert status == 0, said
    assert "its output is probabilities: the bundle has logits" in said
    assert_answers_as(bundle(tmp_path), lambda _, inputs: answer(model, inputs))
    operators = {node.op_type for node in onnx.load(bundle(tmp_path).model_path).graph.node}
    assert "Softmax" not in operators


@pytest.mark.parametrize(
    ("model", "why"),
    [(classifier(batch=1), "is fixed to 1"), (classifier(reshape=(1, -1)), "is dynamic, but two pictures fail")],
    ids=["fixed", "dynamic by name only"],
)
def test_a_file_for_one_picture_is_served_at_batch_1(
    model: onnx.ModelProto, why: str, tmp_path: Path, run: Run, capfd: pytest.CaptureFixture
) -> None:
    status, said = run(model)
    assert status == 0, said
    assert f"its batch {why}: it is served one picture at a time" in said
    opened = bundle(tmp_path)
    assert (opened.manifest.max_batch_size, opened.manifest.parity.batch_sizes) == (1, (1,))
    assert summary.main([str(opened.folder)]) == 0
    assert "uint8 NHWC (1, 16, 16, 3)" in capfd.readouterr().out
    assert_answers_as(opened, lambda _, inputs: softmax(answer(model, inputs)))
    labelled(tmp_path / "pictures")
    assert evaluate.main([str(opened.folder), str(tmp_path / "pictures")]) == 0


def test_the_service_gives_such_a_model_one_row_at_a_time(tmp_path: Path, run: Run) -> None:
    assert run(classifier(batch=1))[0] == 0
    with running_service(repository=tmp_path / "repository") as running:
        files = [("image", (name, (EXAMPLES / name).read_bytes(), "image/jpeg")) for name in ("cat.jpg", "rocket.jpg")]
        response = running.client.post("/classify/batch", files=files)
        assert response.status_code == 200, response.text
        assert running.metric("aaserve_batch_size_count", model="given") == 2
        assert running.metric("aaserve_batch_size_sum", model="given") == 2


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("batch", ["N", 1])
def test_a_file_is_lowered_like_a_network_of_ours(precision: str, batch: object, tmp_path: Path, run: Run) -> None:
    layers = [
        helper.make_node("Conv", ["positive", "second"], ["more"]),
        helper.make_node("GlobalAveragePool", ["more"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["other"]),
        helper.make_node("Add", ["answer", "other"], ["both"]),
        helper.make_node("Softmax", ["both"], ["probabilities"]),
    ]
    model = classifier(batch=batch, ends=layers, output="probabilities")
    second = np.random.default_rng(1).normal(size=(len(LABELS), 8, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(second, "second"))
    calibration = () if precision == "fp16" else ("--calibration", str(EXAMPLES))
    status, said = run(model, "--precision", precision, *calibration, "--allow-drop", "100")
    assert status == 0, said
    assert bundle(tmp_path).manifest.precision == precision


def test_external_data_beside_the_file_comes_into_the_bundle(tmp_path: Path, run: Run) -> None:
    model = classifier()
    onnx.save(model, tmp_path / "given.onnx", save_as_external_data=True, location="given.bin", size_threshold=0)
    content = (tmp_path / "given.onnx").read_bytes()
    model = classifier()
    status, said = run(content)
    assert status == 0, said
    assert_answers_as(bundle(tmp_path), lambda _, inputs: softmax(answer(model, inputs)))


def labelled(folder: Path) -> None:
    for label, picture in (("cat", "cat.jpg"), ("dog", "rocket.jpg")):
        (folder / label).mkdir(parents=True)
        (folder / label / picture).write_bytes((EXAMPLES / picture).read_bytes())
