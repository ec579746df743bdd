"""The file to export, opened: its description at once, its graph on demand.

checkpoint --build_network--> network --convert--> graph, compared with PyTorch
ONNX file  ------------------convert_file-------> graph, compared with the file itself
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from aaserve.bundle.manifest import AttentionMap, Precision, StoredWeights
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError
from aaserve.export.graph.attention_outputs import output_name
from aaserve.export.graph.convert import OPSET, OUTPUT_NAME, convert
from aaserve.export.graph.foreign import convert_file
from aaserve.export.graph.normalisation import PixelInput
from aaserve.export.graph.storage import round_weights, store_rounded
from aaserve.export.graph.suppression import RAW_OUTPUTS
from aaserve.export.judgement.detection_parity import Detector, Raw
from aaserve.export.judgement.file_answers import FileAnswers
from aaserve.export.judgement.originals import PyTorch, difference, logits_of
from aaserve.export.request import Request
from aaserve.export.sources.checkpoint import read_checkpoint
from aaserve.export.sources.description import Description, describe, describe_file
from aaserve.export.sources.network import build_network
from aaserve.export.sources.onnx_file import read_onnx_file
from aaserve.export.tasks.classification import Classification
from aaserve.export.tasks.detection import Detection
from aaserve.export.tasks.task import Pixels, Report, Task
from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.attention.maps import attention_layers
from aaserve.models.networks.retinanet.network import RetinaNet


@dataclass(frozen=True)
class Converted:
    """The fp32 graph of a source's network, with its description and reference answers."""

    network: bytes
    task: Task
    opset: int
    max_batch_size: int | None


@dataclass(frozen=True)
class Source:
    """A checkpoint or an ONNX file to export.

    Args:
        name: what computes the reference answers, for messages.
        convert: makes the graph; its arguments are trial pictures, uint8 (N, H, W, 3), and a function for reports.
    """

    name: str
    description: Description
    sha256: str
    convert: Callable[[Pixels, Report], Converted]


def open_checkpoint(request: Request) -> Source:
    """Read the checkpoint.

    Raises:
        ExportError: it is not a checkpoint, or needed information is missing. `convert` raises it too.
    """
    checkpoint = read_checkpoint(request.checkpoint, nested_key=request.nested_key)
    description = describe(request, checkpoint)

    def converted(pixels: Pixels, report: Report) -> Converted:
        preprocessing = description.preprocessing
        report(f"building {description.architecture} for {preprocessing.crop[0]}x{preprocessing.crop[1]} pixels")
        network = build_network(request, description, checkpoint, report)
        layers = {}
        if request.with_attention:
            with torch.inference_mode():
                layers = attention_layers(network, torch.zeros(1, 3, *preprocessing.crop))
            if not layers:
                raise ExportError("--with-attention: expected a network with attention layers, this one has none")
        stored = request.stored_weights
        if stored != "float32":
            report(_rounded(network, stored, pixels, preprocessing))
        report("tracing and folding the graph")
        traced, example = network, torch.zeros(2, 3, *preprocessing.crop)
        if request.pixel_input:
            traced = PixelInput(network, preprocessing).eval()
            example = torch.zeros(2, *preprocessing.crop, 3, dtype=torch.uint8)
        outputs = RAW_OUTPUTS if isinstance(network, RetinaNet) else (OUTPUT_NAME,)
        graph = convert(traced, example, _metadata(description, checkpoint.sha256), layers, outputs)
        if stored != "float32":
            graph = store_rounded(graph, network, stored)
        task: Task
        if isinstance(network, RetinaNet):
            task = Detection(Detector(network, preprocessing, request.selection, report), preprocessing)
        else:
            original = PyTorch(network, preprocessing, report)
            maps = _attention_maps(layers, request.precision)
            task = Classification(original, preprocessing, len(description.labels), maps)
        return Converted(graph, task, OPSET, None)

    return Source("PyTorch", description, checkpoint.sha256, converted)


def open_file(request: Request) -> Source:
    """Read the ONNX file.

    Raises:
        ExportError: it cannot be served, or needed information is missing. `convert` raises it too.
    """
    if request.stored_weights != "float32":
        raise ExportError(f"{request.checkpoint}: --store-weights is for checkpoints, found an ONNX file")
    file = read_onnx_file(request.checkpoint)
    description = describe_file(request, file)

    def converted(_: Pixels, report: Report) -> Converted:
        preprocessing = description.preprocessing
        report("running the file and folding its graph")
        answers = FileAnswers(file, preprocessing)
        for expected, said in ((len(description.labels), "labels"), (request.num_classes, "--num-classes")):
            if expected not in (None, answers.classes):
                raise ExportError(f"{file.path}: expected {expected} classes ({said}), found {answers.classes}")
        if file.dtype == "uint8":
            report("it takes uint8 pixels and normalises them itself: mean and std are not applied")
        if answers.max_batch_size == 1:
            fixed = "is fixed to 1" if file.max_batch_size == 1 else "is dynamic, but two pictures fail"
            report(f"its batch {fixed}: it is served one picture at a time")
        if file.logits != file.model.graph.output[0].name or answers.probabilities:
            report("its output is probabilities: the bundle has logits, the service computes probabilities")
        metadata = _metadata(description, file.sha256)
        model = convert_file(file, answers, preprocessing, metadata, pixel_input=request.pixel_input)
        return Converted(
            model, Classification(answers, preprocessing, answers.classes), file.opset, answers.max_batch_size
        )

    return Source("the file", description, file.sha256, converted)


def _rounded(network: nn.Module, stored: StoredWeights, pixels: Pixels, preprocessing: Preprocessing) -> str:
    """Round the weights of `network` in place to their stored values; return a description of the change."""
    asked = Raw(network) if isinstance(network, RetinaNet) else network
    before = logits_of(asked, pixels, preprocessing)
    rounded = round_weights(network, stored)
    after = logits_of(asked, pixels, preprocessing)
    counts = " and ".join(f"{count:,} weights rounded to {kind}" for kind, count in rounded.items())
    text = f"{counts}: logits change by up to {difference(after, before):.1e} of the largest"
    if asked is not network:
        return text
    same = int((before.argmax(1) == after.argmax(1)).sum())
    return f"{text}, the best class of {same} of {len(pixels)} pictures is the same"


def _metadata(description: Description, sha256: str) -> dict[str, str]:
    """Metadata for people who have only the model file."""
    return {
        "architecture": description.architecture,
        "labels": "\n".join(description.labels),
        "preprocessing": description.preprocessing.model_dump_json(),
        "precision": "fp32",
        "checkpoint_sha256": sha256,
    }


def _attention_maps(layers: Mapping[str, AttentionAugmentedConv2d], precision: Precision) -> tuple[AttentionMap, ...]:
    return tuple(
        AttentionMap(
            layer=name,
            output=output_name(name),
            dtype="float16" if precision == "fp16" else "float32",
            num_heads=layer.num_heads,
            grid=layer.feature_size,
        )
        for name, layer in layers.items()
    )
