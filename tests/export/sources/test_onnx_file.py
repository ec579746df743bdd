"""python -m export model.onnx, as a user types it: classifiers of other exporters."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aaserve.bundle.bundle import Bundle, open_bundle
from aaserve.bundle.preprocessing import preprocess, read_pixels
from aaserve.export import evaluate, summary, verify
from aaserve.export.command import main
from aaserve.export.graph.runtime import Graph
from aaserve.export.sources import onnx_file
from tests.helpers import EXAMPLES, running_service

LABELS = ["ant", "bee", "cat", "dog", "eel"]
SIDE = 16
Run = Callable[..., tuple[int, str]]
Nodes = Sequence[onnx.NodeProto]
NORMALISED = ("--mean", "0.5,0.4,0.3", "--std", "0.25,0.2,0.3")


def classifier(
    *,
    layout: str = "NCHW",
    kind: int = TensorProto.FLOAT,
    batch: object = "N",
    sides: Sequence[object] = (SIDE, SIDE),
    ends: Nodes = (),
    output: str = "answer",
    opset: int = 20,
    reshape: Sequence[int] = (0, -1),
    more_inputs: Sequence[onnx.ValueInfoProto] = (),
    more_outputs: Sequence[str] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """Transpose, Cast, Conv, BatchNormalization, Relu, pooling, Reshape, Gemm to `answer`, and then `ends`.

    Values inside are called `image` and `logits`, the names that bundles have for the ends of their graphs.
    """
    random = np.random.default_rng(0)
    weights = {
        "filters": random.normal(size=(8, 3, 3, 3)),
        **{name: random.uniform(0.5, 1.5, 8) for name in ("gamma", "beta", "mean", "var")},
        "head": random.normal(size=(8, len(LABELS))),
    }
    nodes = [
        helper.make_node("Transpose", ["picture"], ["image"], perm=(0, 3, 1, 2) if layout == "NHWC" else (0, 1, 2, 3)),
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["numbers", "filters"], ["features"], strides=(2, 2)),
        helper.make_node("BatchNormalization", ["features", "gamma", "beta", "mean", "var"], ["normal"]),
        helper.make_node("Relu", ["normal"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["logits"]),
        helper.make_node("Reshape", ["logits", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["answer"]),
        *ends,
    ]
    shape = [batch, 3, *sides] if layout == "NCHW" else [batch, *sides, 3]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("picture", kind, shape), *more_inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (output, *more_outputs)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
        + [numpy_helper.from_array(np.array(reshape), "shape")],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Run:
    """Save a model, or bytes, and export it."""
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    monkeypatch.chdir(tmp_path)

    def export(model: onnx.ModelProto | bytes, *options: str) -> tuple[int, str]:
        Path("given.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        fixed = ["--labels", "labels.txt", "--resize", "16", "--crop", "16", "--interpolation", "bilinear", *NORMALISED]
        fixed += ["--background", "0,0,0", "--exif-orientation", "--name", "given", "--version", "1"]
        fixed += ["--repository", "repository", "--max-batch-size", "3", "--parity-images", str(EXAMPLES)]
        status = main(["given.onnx", *fixed, *options])
        return status, capfd.readouterr().err

    return export


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


def external(location: str) -> onnx.ModelProto:
    model = classifier()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model


def looping(operator: str) -> onnx.ModelProto:
    """A file whose answer is computed in a loop, which would never end."""
    one = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Identity", ["value"], ["same"])],
        "body",
        [one("turn", TensorProto.INT64, []), one("go", TensorProto.BOOL, []), one("value", TensorProto.FLOAT, None)],
        [one("goes", TensorProto.BOOL, []), one("same", TensorProto.FLOAT, None)],
    )
    loop = helper.make_node("Loop", ["times", "", "answer"], ["looped"], body=body)
    inner = helper.make_graph([loop], "inner", [], [one("looped", TensorProto.FLOAT, None)])
    branch = helper.make_node("If", ["yes"], ["result"], then_branch=inner, else_branch=inner)
    model = classifier(
        ends=[loop if operator == "Loop" else branch], output="looped" if operator == "Loop" else "result"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "times"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    return model


def with_half_weights() -> onnx.ModelProto:
    model = classifier()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float16), "half"))
    return model


def training() -> onnx.ModelProto:
    model = classifier()
    model.graph.node[3].attribute.append(helper.make_attribute("training_mode", 1))
    return model


def end(operator: str, output: str = "end", domain: str = "", **attributes: object) -> onnx.ModelProto:
    return classifier(
        ends=[helper.make_node(operator, ["answer"], [output], domain=domain, **attributes)],
        output=output,
        domains=[domain] if domain else [],
    )


def class_index() -> onnx.ModelProto:
    model = end("ArgMax", axis=1)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


MASK = helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 5])
DOUBLE = TensorProto.DOUBLE
REFUSED = {
    "two inputs": (
        classifier(more_inputs=[MASK]),
        "expected one input, a picture, found 2: picture float (N, 3, 16, 16); mask",
    ),
    "two outputs": (classifier(more_outputs=["flat"]), "expected one output, found 2: answer float; flat float"),
    "a double input": (
        classifier(kind=DOUBLE),
        "expected a picture input, float32 or uint8, (batch, 3, height, width) or",
    ),
    "a batch of 4": (classifier(batch=4), "expected a dynamic batch or one of 1, found 4"),
    "another size": (classifier(sides=(32, 32)), "takes 32x32 pixels, and the preprocessing crops 16x16"),
    "a custom operator": (
        end("Gelu", domain="com.microsoft"),
        "standard ONNX operators only, found com.microsoft::Gelu",
    ),
    "a loop": (looping("Loop"), "expected a graph without loops, found Loop"),
    "a loop in a branch": (looping("If"), "expected a graph without loops, found Loop"),
    "a feature map": (
        classifier(output="positive"),
        "expected float32 logits (1, number of classes) for a picture, found",
    ),
    "a class index": (class_index(), "for a picture, found int64 (1, 1)"),
    "a probability of each class": (end("Sigmoid"), "found one Sigmoid per class"),
    "float16": (with_half_weights(), "expected a float32 model, found float16"),
    "training mode": (training(), "found a normalisation in training mode"),
    "external data that is absent": (external("gone.bin"), "gone.bin, found no such file"),
    "external data elsewhere": (external("../outside.bin"), "not a valid ONNX model"),
    "no ONNX": (b"version https://git-lfs.github.com/spec/v1\n", "expected an ONNX model, found a Git LFS pointer"),
    "cut off": (classifier().SerializeToString()[:-200], "not a valid ONNX model"),
    "empty": (b"", "expected an ONNX model, found an empty file"),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_served_is_refused_with_its_reason(
    model: onnx.ModelProto | bytes, message: str, tmp_path: Path, run: Run
) -> None:
    (tmp_path.parent / "outside.bin").write_bytes(bytes(10_000))
    assert_refused(*run(model), message, tmp_path)


OPTIONS = {
    "--arch": (classifier(), ["--arch", "resnet50"], "is an ONNX file; for checkpoints only: --arch"),
    "--with-attention": (classifier(), ["--with-attention"], "for checkpoints only: --with-attention"),
    "--num-classes": (classifier(), ["--num-classes", "6"], "expected 6 classes (--num-classes), found 5"),
    "--input float32 of pixels": (
        classifier(layout="NHWC", kind=TensorProto.UINT8),
        ["--input", "float32"],
        "takes uint8 pixels, so --input float32 is not possible",
    ),
}


@pytest.mark.parametrize(("model", "options", "message"), OPTIONS.values(), ids=OPTIONS)
def test_an_option_that_does_not_fit_the_file_is_refused(
    model: onnx.ModelProto, options: list[str], message: str, tmp_path: Path, run: Run
) -> None:
    assert_refused(*run(model, *options), message, tmp_path)


def test_a_file_that_is_too_large_is_refused_with_both_sizes(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "LIMIT", 1000)
    assert_refused(*run(classifier()), "GiB with external data, found", tmp_path)


def assert_refused(status: int, said: str, message: str, folder: Path) -> None:
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 1, said
    assert len(errors) == 1, said
    assert message in errors[0]
    assert "Traceback" not in said
    assert not (folder / "repository").exists()


def labelled(folder: Path) -> None:
    for label, picture in (("cat", "cat.jpg"), ("dog", "rocket.jpg")):
        (folder / label).mkdir(parents=True)
        (folder / label / picture).write_bytes((EXAMPLES / picture).read_bytes())
