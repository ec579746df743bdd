"""Graphs that would read other files or call other code are refused, wherever in them that is hidden."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from aaserve.bundle.bundle import MANIFEST_FILE, open_bundle, sha256_of, write_bundle
from aaserve.bundle.errors import BundleError
from aaserve.bundle.files.graph import check_graph
from aaserve.bundle.manifest import Manifest
from tests.helpers import REPOSITORY

FOLDER = REPOSITORY / "aa-cifar100" / "1"
SHIPPED = (FOLDER / "model.onnx").read_bytes()


def external_tensor() -> TensorProto:
    """One whose numbers are elsewhere."""
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return tensor


def graph(**parts: list) -> onnx.GraphProto:
    return onnx.GraphProto(name="g", **parts)


def model(of: onnx.GraphProto | None = None, **parts: object) -> bytes:
    return onnx.ModelProto(ir_version=10, graph=of, **parts).SerializeToString()


def node(**attributes: object) -> onnx.NodeProto:
    return helper.make_node("If", ["a"], ["b"], **attributes)


def sparse() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=external_tensor(), dims=[4])


def nested(depth: int) -> onnx.GraphProto:
    found = graph(initializer=[external_tensor()])
    for _ in range(depth):
        found = graph(node=[node(then_branch=found)])
    return found


def location_alone() -> TensorProto:
    return TensorProto(name="weights", data_location=TensorProto.EXTERNAL)


def only_said_where() -> TensorProto:
    tensor = TensorProto(name="weights")
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


EXTERNAL = {
    "an initializer": model(graph(initializer=[external_tensor()])),
    "its location alone": model(graph(initializer=[location_alone()])),
    "its place alone": model(graph(initializer=[only_said_where()])),
    "a sparse initializer": model(graph(sparse_initializer=[sparse()])),
    "a constant": model(graph(node=[node(value=external_tensor())])),
    "constants": model(graph(node=[node(values=[external_tensor()])])),
    "a sparse constant": model(graph(node=[node(value=sparse())])),
    "a branch": model(nested(3)),
    "branches": model(graph(node=[node(branches=[nested(0)])])),
    "a function": model(functions=[onnx.FunctionProto(name="f", node=[node(value=external_tensor())])]),
    "a function's default": model(
        functions=[onnx.FunctionProto(name="f", attribute_proto=[helper.make_attribute("a", external_tensor())])]
    ),
    "training": model(training_info=[onnx.TrainingInfoProto(algorithm=nested(1))]),
    "a second graph": model(graph()) + model(nested(0)),  # parsers merge them
}
FOREIGN = {
    "an operator": model(graph(node=[helper.make_node("Run", [], [], domain="evil")])),
    "one that loads engines": model(graph(node=[helper.make_node("EPContext", [], [], domain="com.microsoft")])),
    "one in a branch": model(graph(node=[node(then_branch=graph(node=[helper.make_node("X", [], [], domain="x")]))])),
    "an import": model(opset_import=[helper.make_opsetid("com.microsoft", 1)]),
    "a function": model(functions=[onnx.FunctionProto(name="f", domain="mine")]),
}
SOMETHING_ELSE = {
    "text": b"I am no model",
    "half of one": SHIPPED[:-1],
    "a graph longer than the file": b"\x3a\xff\xff\x7f",
    "a group": b"\x3b\x3c",
    "an endless number": b"\xff" * 20,
    # A field 7 (the graph) that only shows once the tag is cut to 32 bits, as a parser may do.
    "a tag that is too long": b"\xba\x80\x80\x80\x10\x00",
}


@pytest.mark.parametrize("content", EXTERNAL.values(), ids=EXTERNAL.keys())
def test_external_data_is_refused_wherever_it_is(content: bytes) -> None:
    with pytest.raises(BundleError, match="found one with external data"):
        check_graph(content)


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_operators_that_are_not_standard_are_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="expected standard ONNX operators only, found the domain"):
        check_graph(content)


@pytest.mark.parametrize("content", SOMETHING_ELSE.values(), ids=SOMETHING_ELSE.keys())
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="expected an ONNX model, found something else"):
        check_graph(content)


def test_branches_within_branches_end_somewhere() -> None:
    content = b""
    for field in (6, 5, 1) * 30 + (7,):  # graphs in attributes in nodes; deeper than onnx itself would write
        length = bytes([len(content) & 127 | 128, len(content) >> 7])
        content = bytes([field << 3 | 2]) + length + content
    with pytest.raises(BundleError, match="within each other"):
        check_graph(content)


def test_every_message_that_holds_tensors_or_operators_is_looked_into() -> None:
    """onnx says where they may be, so that a new place is noticed with the onnx release that brings it."""
    kinds = {kind.name: kind for kind in onnx.ModelProto.DESCRIPTOR.file.message_types_by_name.values()}
    holding = {"TensorProto", "NodeProto"}
    while True:  # who holds one who holds them
        places = {
            f"{name}.{field.name}"
            for name, kind in kinds.items()
            for field in kind.fields
            if field.message_type is not None and field.message_type.name in holding
        }
        if {place.split(".")[0] for place in places} <= holding:
            break
        holding |= {place.split(".")[0] for place in places}
    assert places == {
        "ModelProto.graph",
        "ModelProto.functions",
        "ModelProto.training_info",
        "TrainingInfoProto.initialization",
        "TrainingInfoProto.algorithm",
        "FunctionProto.node",
        "FunctionProto.attribute_proto",
        "GraphProto.node",
        "GraphProto.initializer",
        "GraphProto.sparse_initializer",
        "NodeProto.attribute",
        "SparseTensorProto.values",
        "SparseTensorProto.indices",
        "AttributeProto.t",
        "AttributeProto.g",
        "AttributeProto.tensors",
        "AttributeProto.graphs",
        "AttributeProto.sparse_tensor",
        "AttributeProto.sparse_tensors",
    }


@pytest.mark.parametrize("content", [EXTERNAL["an initializer"], FOREIGN["an operator"]], ids=["external", "foreign"])
def test_a_bundle_with_such_a_graph_does_not_open_though_its_sha256_is_right(tmp_path: Path, content: bytes) -> None:
    files = {"model.onnx": content, "references.json": b"[]"}
    manifest = json.loads((FOLDER / MANIFEST_FILE).read_text())
    manifest["files"] = {name: sha256_of(part) for name, part in files.items()}
    folder = write_bundle(tmp_path, Manifest.model_validate(manifest), files)
    with pytest.raises(BundleError, match=r"model\.onnx: expected") as caught:
        open_bundle(folder)
    assert "\n" not in str(caught.value)


def test_the_shipped_graph_is_accepted() -> None:
    check_graph(SHIPPED)
