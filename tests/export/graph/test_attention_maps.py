"""--with-attention: the maps that come out are PyTorch's, and nothing else changes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import save_file

from aaserve.bundle.bundle import MODEL_FILE, REFERENCES_FILE, Bundle, open_bundle, sha256_of, write_bundle
from aaserve.bundle.manifest import AttentionMap, Manifest
from aaserve.bundle.preprocessing import Preprocessing, normalise
from aaserve.export import summary, verify
from aaserve.export.command import main
from aaserve.export.errors import ExportError
from aaserve.export.graph.attention_outputs import output_name
from aaserve.export.graph.convert import convert
from aaserve.export.graph.normalisation import PixelInput
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.originals import PyTorch
from aaserve.export.judgement.parity import check_parity
from aaserve.models import create_model
from aaserve.models.attention.maps import attention_layers, attention_maps
from tests.export.test_networks import small
from tests.helpers import EXAMPLES, REPOSITORY
from tests.looking_bundle import COLUMNS, GRID, LAYER, RED, RIGHT, ROWS, write_looking_bundle

SHIPPED = open_bundle(REPOSITORY / "aa-cifar100" / "1")


def preprocessing(height: int, width: int) -> Preprocessing:
    return SHIPPED.manifest.preprocessing.model_copy(update={"resize": (height, width), "crop": (height, width)})


@pytest.mark.parametrize("name", ["aa_wide_resnet16_2", "aa_resnet34"])
def test_the_attention_maps_of_the_graph_equal_pytorchs(name: str) -> None:
    network = small(name)
    size = network.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    spec = preprocessing(*size)
    inputs = torch.from_numpy(normalise(pixels, spec))
    with torch.no_grad():
        for _ in range(3):
            network(inputs)  # gives the normalisations statistics that fit
        network.eval()
        expected, layers = attention_maps(network, inputs), attention_layers(network, inputs)
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    model = convert(PixelInput(network, spec).eval(), example, {}, layers)
    attention = [
        AttentionMap(
            layer=name, output=output_name(name), dtype="float32", num_heads=layer.num_heads, grid=layer.feature_size
        )
        for name, layer in layers.items()
    ]
    found = Graph(model, spec).maps(pixels, attention)
    assert list(found) == list(expected)
    for one in attention:
        maps = found[one.layer]
        assert maps.shape == (3, *one.shape)
        np.testing.assert_allclose(maps.sum(axis=-1), 1, atol=1e-5)
        np.testing.assert_allclose(maps, expected[one.layer].numpy(), atol=1e-5)
    parity = check_parity(PyTorch(network, spec), Graph(model, spec), pixels, batch_sizes=[1, 3], attention=attention)
    assert parity.attention_difference < 1e-5
    others = [*(one.output for one in attention[:-2]), attention[-1].output, attention[-2].output]  # of one shape
    swapped = [one.model_copy(update={"output": other}) for one, other in zip(attention, others, strict=True)]
    with pytest.raises(ExportError, match="attention maps differ by"):
        check_parity(PyTorch(network, spec), Graph(model, spec), pixels, batch_sizes=[1], attention=swapped)


@pytest.mark.parametrize("form", ["uint8", "float32"])
def test_a_network_with_hand_made_weights_attends_to_the_expected_positions(tmp_path: Path, form: str) -> None:
    opened = open_bundle(write_looking_bundle(tmp_path, form=form))
    pixels = np.zeros((1, *GRID, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[0, 3, 1, 0] = 255
    graph = Graph(opened.model_path.read_bytes(), opened.manifest.preprocessing)
    maps = graph.maps(pixels, opened.manifest.attention)[LAYER][0].reshape(2, *GRID, *GRID)
    for row in range(ROWS):
        for column in range(COLUMNS):
            assert maps[RED, row, column, 3, 1] > 0.999
            if column + 1 < COLUMNS:
                assert maps[RIGHT, row, column, row, column + 1] > 0.999
            else:  # nothing to the right: all of its row alike
                np.testing.assert_allclose(maps[RIGHT, row, column, row], 1 / COLUMNS, atol=1e-4)


def small_export(folder: Path, *options: str, architecture: str = "aa_wide_resnet10_1") -> int:
    torch.manual_seed(0)
    network = create_model(architecture, num_classes=3, image_size=(16, 16))
    save_file(network.state_dict(), folder / "weights.safetensors")
    (folder / "labels.txt").write_text("ant\nbee\ncat\n")
    given = ("--arch", architecture, "--labels", str(folder / "labels.txt"), "--preprocessing", "imagenet")
    sizes = ("--resize", "16", "--crop", "16", "--max-batch-size", "3", "--parity-images", str(EXAMPLES))
    where = ("--name", "small", "--repository", str(folder))
    return main([str(folder / "weights.safetensors"), *given, *sizes, *where, *options])


def test_with_attention_adds_outputs_and_changes_no_node(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert small_export(tmp_path, "--version", "1") == 0, capsys.readouterr().err
    for version in ("2", "3"):
        assert small_export(tmp_path, "--version", version, "--with-attention") == 0, capsys.readouterr().err
    plain, given, again = (onnx.load(tmp_path / "small" / version / MODEL_FILE) for version in "123")
    assert given == again
    assert [node.op_type for node in plain.graph.node] == [node.op_type for node in given.graph.node]
    assert [output.name for output in plain.graph.output] == ["logits"]
    assert [output.name for output in given.graph.output] == ["logits", "attention.layer3.0.conv1"]
    bundles = [open_bundle(tmp_path / "small" / version) for version in "12"]
    assert bundles[0].manifest.attention == ()
    assert "attention" not in (bundles[0].folder / REFERENCES_FILE).read_text()
    assert bundles[1].manifest.attention == (
        AttentionMap(
            layer="layer3.0.conv1",
            output="attention.layer3.0.conv1",
            dtype="float32",
            num_heads=4,
            grid=(4, 4),
        ),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    answers = [Graph(bundle.model_path.read_bytes(), bundle.manifest.preprocessing)(pixels) for bundle in bundles]
    np.testing.assert_array_equal(*answers)
    assert verify.main([str(bundles[1].folder), "--images", str(EXAMPLES)]) == 0
    assert summary.main([str(bundles[1].folder)]) == 0
    assert "layer3.0.conv1 (4 heads, 4x4)" in capsys.readouterr().out


def test_with_attention_rejects_a_network_without_attention(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert small_export(tmp_path, "--version", "1", "--with-attention", architecture="wide_resnet10_1") == 1
    assert "expected a network with attention layers" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


def other_references(references: list[dict], layer: str) -> None:
    references[1]["attention"][layer][0][1] += 0.01


def references_without_a_layer(references: list[dict], layer: str) -> None:
    del references[0]["attention"][layer]


def swapped_layers(manifest: dict) -> None:
    first, second = manifest["attention"][:2]
    first["output"], second["output"] = second["output"], first["output"]


def a_turned_grid(manifest: dict) -> None:
    manifest["attention"][0]["grid"] = [4, 16]


def an_output_that_is_not_there(manifest: dict) -> None:
    manifest["attention"][0]["output"] = "attention.other"


def half_of_each_share(graph: onnx.GraphProto, output: str) -> None:
    graph.initializer.append(helper.make_tensor("half", onnx.TensorProto.FLOAT, [], [0.5]))
    rewire(graph, output, "Mul", ["half"])


def queries_for_keys(graph: onnx.GraphProto, output: str) -> None:
    """Each column sums to 1 instead of each row."""
    rewire(graph, output, "Transpose", [], perm=[0, 1, 3, 2])


def heads_in_another_order(graph: onnx.GraphProto, output: str) -> None:
    graph.initializer.append(helper.make_tensor("order", onnx.TensorProto.INT64, [4], [1, 0, 2, 3]))
    rewire(graph, output, "Gather", ["order"], axis=1)


def rows_in_another_order(graph: onnx.GraphProto, output: str) -> None:
    order = [1, 0, *range(2, 64)]
    graph.initializer.append(helper.make_tensor("order", onnx.TensorProto.INT64, [64], order))
    rewire(graph, output, "Gather", ["order"], axis=2)


def rewire(graph: onnx.GraphProto, output: str, operator: str, inputs: list[str], **attributes: object) -> None:
    """Put an operator between the softmax and its output."""
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == output:
                    names[index] = "true"
    graph.node.append(helper.make_node(operator, ["true", *inputs], [output], **attributes))


def damaged(folder: Path, damage: Callable[..., None]) -> Bundle:
    """The shipped bundle with other maps, its checksums right."""
    manifest = json.loads(SHIPPED.manifest.model_dump_json())
    references = json.loads((SHIPPED.folder / REFERENCES_FILE).read_text())
    model = onnx.load(SHIPPED.model_path)
    last = manifest["attention"][-1]
    if damage.__code__.co_varnames[0] == "manifest":
        damage(manifest)
    elif damage.__code__.co_varnames[0] == "references":
        damage(references, last["layer"])
    else:
        damage(model.graph, last["output"])
    files = {MODEL_FILE: model.SerializeToString(), REFERENCES_FILE: json.dumps(references).encode()}
    manifest["files"] = {name: sha256_of(content) for name, content in files.items()}
    return open_bundle(write_bundle(folder, Manifest.model_validate_json(json.dumps(manifest)), files))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (other_references, "expected heads to look where they did within 1e-04, found 1.0e-02"),
        (references_without_a_layer, "expected heads to look where they did"),
        (swapped_layers, "expected heads to look where they did"),
        (a_turned_grid, "expected heads to look where they did"),
        (an_output_that_is_not_there, "expected the output attention.other in the graph, found"),
        (half_of_each_share, "the shares of each query with a sum of 1"),
        (queries_for_keys, "the shares of each query with a sum of 1"),
        (heads_in_another_order, "expected heads to look where they did"),
        (rows_in_another_order, "expected heads to look where they did"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_verify_rejects_changed_attention_maps(
    tmp_path: Path, damage: Callable[..., None], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert verify.main([str(damaged(tmp_path, damage).folder), "--images", str(EXAMPLES)]) == 1
    assert words in capsys.readouterr().err


def test_an_inconsistent_manifest_is_rejected() -> None:
    document = json.loads(SHIPPED.manifest.model_dump_json())
    for change, words in (
        ({"attention": []}, "only there"),
        ({"attention": document["attention"] * 2}, "different names"),
    ):
        with pytest.raises(ValueError, match=words):
            Manifest.model_validate(document | change)
