"""All settings, each as option `--max-queue-size` and environment variable `AASERVE_MAX_QUEUE_SIZE`."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ProviderName = Literal["auto", "cpu", "cuda", "tensorrt"]


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Settings(BaseSettings):
    """aaserve: image in, ranked labels out. Every option can also be set as AASERVE_NAME in the environment."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="AASERVE_",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0 for any free one.")
    repository: Path = Field(Path("model_repository"), description="Folder of bundles, NAME/VERSION/.")
    provider: ProviderName = Field(
        "auto", description="Execution provider; one that is asked for and not there stops the start."
    )
    intra_op_num_threads: int = Field(
        default_factory=available_cores,
        ge=1,
        description="Threads of one model call.",
    )
    decode_threads: int = Field(
        default_factory=available_cores,
        ge=1,
        le=256,
        description="Images decoded at once.",
    )
    max_batch_size: int = Field(8, ge=1, le=1024, description="Rows in one model call, at most.")
    max_queue_delay_ms: float = Field(
        0, ge=0, le=1000, description="Milliseconds a batch waits for company when the model is free; 0 is greedy."
    )
    max_queue_size: int = Field(
        128,
        ge=1,
        le=100_000,
        description="Rows waiting (for their body, a decode thread or the model), at most; beyond that 429.",
    )
    max_batch_items: int = Field(
        32, ge=1, le=10_000, description="Images in one request of /classify/batch, at most; beyond that 413."
    )
    request_timeout_ms: int = Field(
        10_000, ge=1, le=600_000, description="Milliseconds to answer in, if X-Request-Timeout-Ms does not say less."
    )
    max_body_bytes: int = Field(10 * 2**20, ge=1, description="Bytes of a request body, at most; beyond that 413.")
    max_inflight_bytes: int = Field(
        256 * 2**20, ge=1, description="Bytes of all bodies in flight for one model, at most; beyond that 429."
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Width times height of an image, at most; beyond that 413."
    )
    drain_grace_ms: int = Field(
        10_000, ge=0, le=600_000, description="Milliseconds after SIGTERM to answer what was accepted, at most."
    )
    metrics_compat: Literal["none", "triton"] = Field(
        "none", description="triton: the same figures also under Triton's names, nv_inference_*."
    )
