"""The model runs where it was asked to, or not at all."""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from aaserve.bundle.bundle import Bundle, open_bundle
from aaserve.service.engine.runtime.providers import with_options
from aaserve.service.engine.runtime.session import OnnxSession, left_to_the_cpu
from aaserve.service.errors import StartFailed
from aaserve.service.settings import Settings
from tests.detector_bundle import coloured, write_detector
from tests.helpers import REPOSITORY, noise

SHIPPED = open_bundle(REPOSITORY / "aa-cifar100" / "1")


def claim_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that has the CUDA provider on a machine that cannot load it: ONNX Runtime takes the CPU then."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    warnings.simplefilter("ignore")  # ONNX Runtime's own word on it


def test_falling_back_to_the_cpu_behind_our_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_cuda(monkeypatch)
    with pytest.raises(StartFailed, match="provider: expected CUDAExecutionProvider, found CPUExecutionProvider"):
        OnnxSession(SHIPPED, Settings(provider="cuda", intra_op_num_threads=1, max_batch_size=4))


def test_auto_takes_the_cpu_where_cuda_does_not_work_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claim_cuda(monkeypatch)
    session = OnnxSession(SHIPPED, Settings(provider="auto", intra_op_num_threads=1, max_batch_size=4))
    assert session.provider == "CPUExecutionProvider"
    assert "provider auto: no CUDA" in caplog.text


def test_a_provider_that_fails_in_the_midst_of_work_is_not_replaced_in_silence() -> None:
    """Left to itself, onnxruntime's `run` would go on with the CPU from here on."""

    class FailingProvider:
        def __getattr__(self, name: str) -> object:
            return getattr(sound, name)

        def run(self, *_: object) -> None:
            raise EPFail("CUDA failure 700")

    session = OnnxSession(SHIPPED, Settings(provider="cpu", intra_op_num_threads=1, max_batch_size=1))
    sound = session._sessions[1]._sess
    session._sessions[1]._sess = FailingProvider()  # no CPU can be made to fail like this
    with pytest.raises(EPFail):
        session.run(np.zeros((1, 32, 32, 3), np.uint8))


def test_runs_batches_of_any_size() -> None:
    session = OnnxSession(SHIPPED, Settings(provider="cpu", intra_op_num_threads=1, max_batch_size=4))
    session.warm_up()
    assert session.run(np.zeros((3, 32, 32, 3), np.uint8))["logits"].shape == (3, 100)


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_named_outputs_of_any_shape_and_type_come_as_the_graph_gives_them(tmp_path: Path, fixed_shapes: bool) -> None:
    """As a detector's: a fixed number of boxes and classes for each picture, and how many of them count."""
    detector = open_bundle(write_detector(tmp_path))
    session = OnnxSession(detector, Settings(provider="cpu", max_batch_size=4), fixed_shapes=fixed_shapes)
    session.warm_up()
    pictures = [coloured(64, 48), coloured(64, 48, red=((3, 5, 20, 30), 204)), noise(48, 64)]
    found = session.run(np.stack([np.asarray(picture) for picture in pictures]))
    assert {name: (values.dtype.name, values.shape) for name, values in found.items()} == {
        "boxes": ("float32", (3, 3, 4)),
        "scores": ("float32", (3, 3)),
        "classes": ("int64", (3, 3)),
        "count": ("int64", (3,)),
    }
    np.testing.assert_array_equal(found["boxes"][1], [[3, 5, 20, 30], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(found["count"], [0, 1, 3])
    assert list(session.run(np.zeros((1, 48, 64, 3), np.uint8), ["count"])) == ["count"]
    manifest = detector.manifest
    swapped = manifest.model_copy(update={"outputs": manifest.outputs[::-1]})
    with pytest.raises(StartFailed, match=r"expected the output \('count', 'int64', \(\)\), \('classes'"):
        OnnxSession(Bundle(detector.folder, swapped, ""), Settings(provider="cpu"))


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_padding_to_warm_sizes_changes_no_answer(rows: int) -> None:
    """As on a GPU: fixed shapes, each in a session of its own."""
    settings = Settings(provider="cpu", intra_op_num_threads=1, max_batch_size=4)
    free, fixed = OnnxSession(SHIPPED, settings), OnnxSession(SHIPPED, settings, fixed_shapes=True)
    fixed.warm_up()
    for seed in range(3):
        batch = np.random.default_rng(seed).integers(0, 256, (rows, 32, 32, 3), np.uint8)
        np.testing.assert_allclose(fixed.run(batch)["logits"], free.run(batch)["logits"], rtol=1e-4, atol=1e-4)


def test_a_session_never_sees_another_shape_where_each_costs_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's convolutions are planned anew at every change of shape, for more than a second in all."""
    shapes: dict[int, set[tuple[int, ...]]] = {}

    class Watched(onnxruntime.InferenceSession):
        def run(self, names: list[str], feed: dict[str, np.ndarray], *more: object) -> list[np.ndarray]:
            shapes.setdefault(id(self), set()).update(value.shape for value in feed.values())
            return super().run(names, feed, *more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    settings = Settings(provider="cpu", intra_op_num_threads=1, max_batch_size=8)
    session = OnnxSession(SHIPPED, settings, fixed_shapes=True)
    session.warm_up()
    for rows in (1, 8, 3, 2, 5, 1, 4):
        session.run(np.zeros((rows, 32, 32, 3), np.uint8))
    assert sorted(map(sorted, shapes.values())) == [[(rows, 32, 32, 3)] for rows in (1, 2, 4, 8)]


def test_a_size_that_does_not_warm_up_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    session = OnnxSession(SHIPPED, Settings(provider="cpu", max_batch_size=4), fixed_shapes=True)
    monkeypatch.setattr(session._sessions[4], "run", lambda *_: [np.full((4, 100), np.nan, np.float32)])
    with pytest.raises(StartFailed, match=r"expected finite logits \(4, 100\) in warm-up"):
        session.warm_up()


def test_nodes_that_the_cpu_computes_are_named() -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(SHIPPED.model_path, options, providers=["CPUExecutionProvider"])
    assert "Gemm node_linear" in left_to_the_cpu(session)


def test_onnxruntime_writes_no_lines_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    OnnxSession(SHIPPED, Settings(provider="cpu", max_batch_size=1))
    options = onnxruntime.SessionOptions()
    for value in ("0", "1"):
        options.add_session_config_entry("session.intra_op.allow_spinning", value)  # it would warn of the second one
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("precision", "tf32", "allowed"), [("fp32", False, 0), ("fp32", True, 1), ("fp16", False, 1)])
def test_only_fp32_is_kept_from_the_tensor_cores(precision: str, tf32: bool, allowed: int) -> None:
    manifest = SHIPPED.manifest.model_copy(update={"precision": precision})
    [(_, options)] = with_options("cuda", manifest, Settings(tf32=tf32))
    assert options["use_tf32"] == allowed


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_every_size_that_is_padded_to_is_warm(largest: int, sizes: list[int]) -> None:
    settings = Settings(provider="cpu", max_batch_size=largest)
    assert OnnxSession(SHIPPED, settings, fixed_shapes=True).warm_sizes == sizes
    assert OnnxSession(SHIPPED, settings).warm_sizes == [1]  # the CPU pays nothing for new shapes


def test_tensorrt_gets_one_profile_for_all_batches_and_keeps_its_engines(tmp_path: Path) -> None:
    settings = Settings(max_batch_size=16, engine_cache=tmp_path / "engines", gpu_device_id=1, gpu_memory_bytes=2**30)
    [(name, options), (second, cuda)] = with_options("tensorrt", SHIPPED.manifest, settings)
    assert (name, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert options["trt_profile_min_shapes"] == "image:1x32x32x3"
    assert options["trt_profile_max_shapes"] == "image:16x32x32x3"
    assert (tmp_path / "engines").is_dir()
    assert options["trt_engine_cache_path"] == str(tmp_path / "engines")
    assert (cuda["device_id"], cuda["gpu_mem_limit"], cuda["use_tf32"]) == (1, 2**30, 0)
