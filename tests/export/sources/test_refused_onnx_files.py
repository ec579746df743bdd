"""python -m export model.onnx, as a user types it: files and options that are refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aaserve.export.sources import onnx_file
from tests.export.sources.classifiers import Run, classifier


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
