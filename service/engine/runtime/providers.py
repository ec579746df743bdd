"""What ONNX Runtime is asked for: execution providers by name, with their options.

The GPU's choices are those that serving wants: short searches, memory as asked for, engines kept on disk. CUDA's were
measured on an H200 (benchmarks/results/2026-11-28-gpu-throughput.json); TensorRT's are unproven.
"""

from typing import Any

from aaserve.bundle.manifest import Manifest
from aaserve.service.settings import ProviderName, Settings

NAMES: dict[ProviderName, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
}


def with_options(provider: ProviderName, manifest: Manifest, settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    """ONNX Runtime's names, in order of preference, each with its options; not for `auto`."""
    match provider:
        case "cuda":
            options = [_cuda(manifest, settings)]
        case "tensorrt":
            options = [_tensorrt(manifest, settings), _cuda(manifest, settings)]
        case _:
            options = [{}]
    return list(zip(NAMES[provider], options, strict=True))


def _cuda(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    options = {
        "device_id": settings.gpu_device_id,
        # An exhaustive search plans as long, and what it finds is no faster: 0.65 to 0.99 times at batch 64.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",  # no more memory than the largest batch needs
        # Off, it keeps convolutions of float16 too from the tensor cores, where cuDNN has any other way
        # (docs/decisions/0023); that fp32 bundles stay exact is up to the setting.
        "use_tf32": int(settings.tf32 or manifest.precision == "fp16"),
        # Convolutions channels last, in fp16 at batch 64: AA-ResNet-50 1.06 times, ResNet-50 1.24 times as fast.
        "prefer_nhwc": 1,
    }
    if settings.gpu_memory_bytes:
        options["gpu_mem_limit"] = settings.gpu_memory_bytes
    return options


def _tensorrt(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    folder = settings.engine_cache.expanduser()
    folder.mkdir(parents=True, exist_ok=True)

    def shape(rows: int) -> str:
        return f"{manifest.input.name}:" + "x".join(map(str, (rows, *manifest.input.shape)))

    return {
        "device_id": settings.gpu_device_id,
        "trt_fp16_enable": manifest.precision == "fp16",
        # Building an engine takes minutes: once for a model, not at each start and not for each batch size.
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": shape(1),
        "trt_profile_opt_shapes": shape(settings.max_batch_size),
        "trt_profile_max_shapes": shape(settings.max_batch_size),
    }
