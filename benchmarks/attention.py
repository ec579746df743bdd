"""python -m benchmarks.attention [NETWORK …] [--formulations NAME,…] [--batch-sizes 1,8] [--rounds 12] --output FILE

Formulations of relative attention, each in the whole network, against the plain network, in ONNX Runtime on the CPU.
All sessions stand side by side and take turns, so that a noisy machine disturbs all alike; ratios are medians of the
time over the plain network's in the same round. Memory is the peak of a process that runs that one model.

"products and softmax alone" is a graph of nothing but the three nodes that no formulation can do without, for every
layer of the network: one plus its ratio is what the network cannot be faster than.
"""

import argparse
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from aaserve.export.graph.convert import convert
from aaserve.models import create_model
from aaserve.models.attention import AttentionAugmentedConv2d as Layer
from aaserve.models.position import one_hot_positions
from benchmarks.circumstances import write_result


def pad_and_reshape(layer: Layer, x: Tensor) -> Tensor:
    """The paper's listing: logits against all 2L-1 offsets, shifted into place, tiled and added (B, Nh, N, N)."""
    height, width = layer.feature_size
    q, k, v = _heads(layer, x)
    rows = q.reshape(-1, layer.num_heads, height, width, q.shape[-1])  # (B, Nh, H, W, d)
    relative_w = _shifted(rows @ layer.key_rel_w.T)  # (B, Nh, H, W, W)
    relative_h = _shifted(rows.transpose(2, 3) @ layer.key_rel_h.T)  # (B, Nh, W, H, H)
    bias = relative_h.permute(0, 1, 3, 2, 4)[..., :, None] + relative_w[..., None, :]  # (B, Nh, H, W, H, W)
    logits = q @ k.transpose(2, 3) + bias.flatten(4, 5).flatten(2, 3)
    return _merged(layer, logits.softmax(-1) @ v)


def gathered_tables(layer: Layer, x: Tensor) -> Tensor:
    """Constant gather of the tables, two products, added by broadcasting (B, Nh, N, H, W)."""
    q, k, v = _heads(layer, x)
    relative_h, relative_w = _relative_logits(layer, q)  # (B, Nh, N, H), (B, Nh, N, W)
    bias = (relative_h[..., :, None] + relative_w[..., None, :]).flatten(3, 4)  # (B, Nh, N, N)
    logits = q @ k.transpose(2, 3) + bias
    return _merged(layer, logits.softmax(-1) @ v)


def marks_product(layer: Layer, x: Tensor) -> Tensor:
    """Relative logits spread over all keys by one product with constant one-hot marks, added."""
    q, k, v = _heads(layer, x)
    relative = torch.cat(_relative_logits(layer, q), dim=-1)  # (B, Nh, N, H + W)
    logits = q @ k.transpose(2, 3) + relative @ one_hot_positions(*layer.feature_size).T
    return _merged(layer, logits.softmax(-1) @ v)


def augmented_key(layer: Layer, x: Tensor) -> Tensor:
    """Relative logits beside the query, one-hot marks beside the key, one product; all in rows of pixels."""
    q, k, v = _heads(layer, x)
    q = torch.cat([q, *_relative_logits(layer, q)], dim=-1)  # (B, Nh, N, d + H + W)
    marks = one_hot_positions(*layer.feature_size).expand(k.shape[0], layer.num_heads, -1, -1)  # (B, Nh, N, H + W)
    k = torch.cat([k, marks], dim=-1)  # (B, Nh, N, d + H + W)
    return _merged(layer, (q @ k.transpose(2, 3)).softmax(-1) @ v)


def no_position(layer: Layer, x: Tensor) -> Tensor:
    """No relative logits at all: what attention itself costs."""
    q, k, v = _heads(layer, x)
    return _merged(layer, (q @ k.transpose(2, 3)).softmax(-1) @ v)


CALLS = 4  # that count, in each turn of a session
PAUSE = 0.05  # seconds
FORMULATIONS: dict[str, Callable[[Layer, Tensor], Tensor]] = {
    "shipped": Layer._attend,
    "pad and reshape": pad_and_reshape,
    "gathered tables": gathered_tables,
    "marks product": marks_product,
    "augmented key": augmented_key,
    "no position": no_position,
}


def _heads(layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled q, k and v, (B, Nh, N, d | d | e)."""
    depths = [layer.key_channels, layer.key_channels, layer.value_channels]
    parts = (part.unflatten(1, (layer.num_heads, -1)) for part in layer.qkv(x).flatten(2).split(depths, dim=1))
    q, k, v = (part.transpose(2, 3) for part in parts)
    return q * (layer.key_channels // layer.num_heads) ** -0.5, k, v


def _relative_logits(layer: Layer, q: Tensor) -> tuple[Tensor, Tensor]:
    return layer.position.relative_logits(q, layer.key_rel_h, layer.key_rel_w)


def _merged(layer: Layer, heads: Tensor) -> Tensor:
    return layer.proj(heads.transpose(2, 3).reshape(-1, layer.value_channels, *layer.feature_size))


def _shifted(x: Tensor) -> Tensor:
    """The listing's rel_to_abs: (…, L, 2L - 1) to (…, L, L), out[i, j] = x[i, j - i + L - 1]."""
    *batch, length, _ = x.shape
    x = F.pad(x, (0, 1)).reshape(-1, 2 * length * length)  # (…, 2 L²)
    x = F.pad(x, (0, length - 1)).reshape(-1, length + 1, 2 * length - 1)
    return x[:, :length, length - 1 :].reshape(-1, *batch[1:], length, length)


def model_bytes(name: str, formulation: Callable[[Layer, Tensor], Tensor] = Layer._attend) -> bytes:
    """The network with random weights, exported with this formulation."""
    torch.manual_seed(0)
    network = create_model(name).eval()
    with mock.patch.object(Layer, "_attend", formulation):
        return convert(network, torch.zeros(2, 3, *network.image_size), {})


def attention_shapes(name: str) -> list[tuple[int, int, int, int]]:
    """(Nh, N, d + H + W, e) of each attention layer."""
    layers = [module for module in create_model(name).modules() if isinstance(module, Layer)]
    return [
        (
            layer.num_heads,
            layer.feature_size[0] * layer.feature_size[1],
            layer.key_channels // layer.num_heads + sum(layer.feature_size),
            layer.value_channels // layer.num_heads,
        )
        for layer in layers
    ]


def products_alone(shapes: list[tuple[int, int, int, int]]) -> bytes:
    """softmax(q @ k) @ v for every layer, its inputs given."""
    nodes, inputs, outputs = [], [], []
    for i, (num_heads, positions, depth, values) in enumerate(shapes):
        nodes += [
            helper.make_node("MatMul", [f"q{i}", f"k{i}"], [f"logits{i}"]),
            helper.make_node("Softmax", [f"logits{i}"], [f"shares{i}"], axis=-1),
            helper.make_node("MatMul", [f"shares{i}", f"v{i}"], [f"heads{i}"]),
        ]
        for value, shape in (("q", (positions, depth)), ("k", (depth, positions)), ("v", (positions, values))):
            inputs.append(_float_tensor(f"{value}{i}", ["batch", num_heads, *shape]))
        outputs.append(_float_tensor(f"heads{i}", ["batch", num_heads, positions, values]))
    graph = helper.make_graph(nodes, "products", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def _float_tensor(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def random_inputs(session: onnxruntime.InferenceSession, batch_size: int) -> dict[str, np.ndarray]:
    """Normal numbers for every input."""
    rng = np.random.default_rng(0)
    return {
        value.name: rng.normal(size=(batch_size, *value.shape[1:])).astype(np.float32) for value in session.get_inputs()
    }


def take_turns(
    sessions: dict[str, onnxruntime.InferenceSession], batch_size: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of a call: in each round every session makes some in a row, the first does not count, the median does.

    The pause lets the threads of the session before stop spinning, which they do for a moment after work: without it
    each session would share the processor with the other ones' idle threads, and all ratios would shrink.
    """
    inputs = {name: random_inputs(session, batch_size) for name, session in sessions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in track(range(rounds + 1), description=f"batch {batch_size}"):
        for name, session in sessions.items():
            time.sleep(PAUSE)
            calls = []
            for _ in range(CALLS + 1):
                started = time.perf_counter()
                session.run(None, inputs[name])
                calls.append(time.perf_counter() - started)
            if turn > 0:
                seconds[name].append(statistics.median(calls[1:]))
    return seconds


def peak_memory(model: bytes, batch_size: int, outputs: list[str] | None = None) -> int:
    """MiB that loading the model and asking for `outputs` (all) adds to a fresh process, at its peak."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        return round(pool.apply(_peak_memory, (path, batch_size, outputs)))


def _peak_memory(path: Path, batch_size: int, outputs: list[str] | None) -> float:
    before = _high_water_mark()
    session = open_session(path.read_bytes())
    for _ in range(3):
        session.run(outputs, random_inputs(session, batch_size))
    return _high_water_mark() - before


def _high_water_mark() -> float:
    """MiB; getrusage would count what the parent had before it forked."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def measure(network: str, formulations: list[str], batch_sizes: list[int], rounds: int) -> dict[int, Any]:
    """Milliseconds, ratio to the plain network and MiB of each model, for each batch size."""
    plain = network.removeprefix("aa_")
    models = {f"{plain} (plain)": model_bytes(plain)}
    for name in track(formulations, description=f"exporting {network}"):
        models[name] = model_bytes(network, FORMULATIONS[name])
    models["products and softmax alone"] = products_alone(attention_shapes(network))
    sessions = {name: open_session(model) for name, model in models.items()}
    measured = {}
    for batch_size in batch_sizes:
        seconds = take_turns(sessions, batch_size, rounds)
        base = seconds[f"{plain} (plain)"]
        measured[batch_size] = {
            name: {
                "milliseconds": round(statistics.median(times) * 1000, 2),
                "ratio": round(statistics.median(a / b for a, b in zip(times, base, strict=True)), 3),
            }
            for name, times in seconds.items()
        }
    del sessions
    for batch_size, rows in measured.items():
        for name, model in models.items():
            rows[name]["peak_mib"] = peak_memory(model, batch_size)
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.splitlines()[2])
    add = parser.add_argument
    add("networks", nargs="*", default=["aa_resnet50"], metavar="NETWORK", help="augmented (default: aa_resnet50)")
    add("--formulations", default=",".join(FORMULATIONS), help=f"some of: {', '.join(FORMULATIONS)} (default: all)")
    add("--batch-sizes", default="1,8", help="rows in one call (default: 1,8)")
    add("--rounds", type=int, default=12, help="turns of each model (default: 12)")
    add("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()

    batch_sizes = list(map(int, arguments.batch_sizes.split(",")))
    result: dict[str, Any] = {}
    for network in arguments.networks:
        result[network] = measure(network, arguments.formulations.split(","), batch_sizes, arguments.rounds)
        write_result(arguments.output, {"networks": result}, "torch", "onnxruntime")
        for batch_size, rows in result[network].items():
            print(f"\n{network}, batch {batch_size:<12} median ms   over plain   peak MiB")
            for name, row in rows.items():
                print(f"  {name:<26} {row['milliseconds']:8.2f} {row['ratio']:12.3f} {row['peak_mib']:10}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
