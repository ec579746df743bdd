"""What ONNX Runtime is asked for: execution providers by name, with their options.

The GPU's choices are those that serving wants: short searches, memory as asked for, engines kept on disk. They are
unproven until somebody runs them on a GPU (benchmarks/gpu/).
"""

from typing import Any

from bundle.manifest import Manifest
from service.settings import ProviderName, Settings

NAMES = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
}


def with_options(provider: ProviderName, manifest: Manifest, settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    """ONNX Runtime's names, in order of preference, each with its options; not for `auto`."""
    match provider:
        case "cuda":
            options = [_cuda(settings)]
        case "tensorrt":
            options = [_tensorrt(manifest, settings), _cuda(settings)]
        case _:
            options = [{}]
    return list(zip(NAMES[provider], options, strict=True))


def _cuda(settings: Settings) -> dict[str, Any]:
    options = {
        "device_id": settings.gpu_device_id,
        # An exhaustive search takes about a second for each new shape, this one milliseconds, and runs as fast after.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",  # no more memory than the largest batch needs
        "use_tf32": int(settings.tf32),
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
