"""All settings, each as option `--max-queue-size` and environment variable `AASERVE_MAX_QUEUE_SIZE`."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from aaserve.bundle.files.shipped import MODELS
from aaserve.bundle.manifest import NAME
from aaserve.service.origins import normal_origins
from aaserve.service.resources import available_cores
from aaserve.service.setting_names import PREFIX, as_written

ProviderName = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
CpuPrecision = Literal["fp32", "bf16"]
LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["info", "warning", "error"]
LoggedRequests = Literal["all", "errors", "none"]
_NAME = NAME.strip("^$")


def _cores_of_a_worker(validated: dict[str, Any]) -> int:
    return max(1, available_cores() // int(validated["workers"]))


class Settings(BaseSettings):
    """aaserve: images in, labels or boxes out. Every option can also be set as AASERVE_NAME in the environment."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix=PREFIX,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,  # --strict and --no-strict
    )

    host: str = Field(
        "127.0.0.1", description="Address to listen on. The container image sets 0.0.0.0, which means all."
    )
    port: int = Field(8080, ge=0, le=65535, description="TCP port. 0 takes any free port and logs it.")
    repository: Path = Field(
        MODELS,
        description=(
            "Folder of bundles, NAME/VERSION/. The highest version of each name is served, unless its "
            "serving.toml says otherwise."
        ),
    )
    default_model: str = Field(
        "",
        pattern=rf"^({_NAME})?$",
        description=(
            "Model that answers requests that name none. Default: the one named by serving.toml in the "
            "repository, else the only one that is served for the task. The start fails if the repository "
            "does not have it."
        ),
    )
    strict: bool = Field(
        False,
        description=(
            "Fail the start if any model cannot be served. Without it the others are served, and GET /models "
            "says why one is not."
        ),
    )
    broken_version: Literal["fall_back", "fail"] = Field(
        "fall_back",
        description=(
            "What to do if the version to serve is broken: fall_back serves the newest older version and "
            "reports it; fail serves nothing of that model."
        ),
    )
    required_models: str = Field(
        "",
        pattern=rf"^({_NAME}( *, *{_NAME})*)?$",
        description=(
            "Names, separated by commas, of models without which /health/ready answers 503. A default model "
            "that is named is one of them."
        ),
    )
    provider: ProviderName = Field(
        "auto",
        description=(
            "Execution provider. auto takes CUDA if it is available, else the CPU, and logs which. The start "
            "fails if a provider that is named is not available."
        ),
    )
    cpu_precision: CpuPrecision = Field(
        "fp32",
        description=(
            "Arithmetic of fp32 operators on a CPU. bf16 is faster and less exact; it needs provider openvino "
            "and a processor with bf16 instructions."
        ),
    )
    workers: int = Field(1, ge=1, le=256, description="Processes that serve on one port. They share the cores.")
    intra_op_num_threads: int = Field(
        default_factory=_cores_of_a_worker,
        ge=1,
        description=(
            "Threads of one model. On CPUs, as many batches are decoded and computed side by side, with one "
            "thread each. Default: the cores of the process (affinity, container quota), divided by workers."
        ),
    )
    decode_threads: int = Field(
        default_factory=_cores_of_a_worker,
        ge=1,
        le=256,
        description=(
            "Threads that decode images beside the model: all images if a GPU computes, only those of "
            "/explain on CPUs. They also draw images, parse large JSON and write large answers. Default: as "
            "intra_op_num_threads."
        ),
    )
    intra_op_spinning: bool = Field(
        True,
        description="Spin instead of sleeping between operators. Applies only to the session for single requests.",
    )
    gpu_device_id: int = Field(0, ge=0, description="Number of the GPU, for cuda and tensorrt.")
    gpu_lanes: int = Field(
        1,
        ge=1,
        le=16,
        description=(
            "Batches of one model in flight on a GPU: one is copied while another computes. Not yet proven on a GPU."
        ),
    )
    gpu_memory_bytes: int = Field(
        0,
        ge=0,
        description="Bytes that CUDA may take for the tensors of one batch size, weights included. 0 for no limit.",
    )
    tf32: bool = Field(
        False,
        description=(
            "Let CUDA round products of fp32 bundles to 10 bits of fraction: faster, with slightly different "
            "answers. fp16 bundles may use tensor cores in any case."
        ),
    )
    engine_cache: Path = Field(
        Path("~/.cache/aaserve"), description="Folder for TensorRT's engines, which take minutes to build."
    )
    max_batch_size: int = Field(
        8,
        ge=1,
        le=1024,
        description="Maximum rows in one model call. On CPUs usually fewer, see cpu_batch_ms. The GPU image sets 64.",
    )
    cpu_batch_ms: float = Field(
        20,
        ge=0,
        le=10_000,
        description=(
            "Maximum milliseconds that the rows of a batch may take together on a CPU, estimated from one "
            "row at the start. A single row is always computed."
        ),
    )
    max_queue_delay_ms: float = Field(
        0,
        ge=0,
        le=1000,
        description=(
            "Milliseconds that a batch waits for more rows while the model is free. 0 takes what is queued at once."
        ),
    )
    max_queue_size: int = Field(
        128,
        ge=1,
        le=100_000,
        description="Maximum rows that wait for decoding or for one model. Beyond that, 429. The GPU image sets 1024.",
    )
    max_queue_bytes: int = Field(
        2**30,
        ge=1,
        description=(
            "Maximum bytes of the rows that wait for one model. Large rows reach it before max_queue_size; "
            "aaserve_queue_capacity shows how many fit."
        ),
    )
    max_batch_items: int = Field(
        32,
        ge=1,
        le=10_000,
        description=(
            "Maximum images in one request of /classify/batch and /detect/batch, and never more than "
            "max_queue_size. Beyond that, 413."
        ),
    )
    request_timeout_ms: int = Field(
        10_000,
        ge=1,
        le=600_000,
        description=(
            "Milliseconds in which a request must be answered, body included. The header "
            "X-Request-Timeout-Ms may ask for less."
        ),
    )
    client_timeout_ms: int = Field(
        10_000,
        ge=1,
        le=600_000,
        description=(
            "Milliseconds in which a client must finish TLS and send the head of a request (else 408), and "
            "in which it must go on reading its answer."
        ),
    )
    keep_alive_ms: int = Field(
        75_000,
        ge=1000,
        le=3_600_000,
        description=(
            "Milliseconds that a connection stays open between two requests. Must be longer than proxies and "
            "clients keep connections (nginx, AWS ALB: 60 s), or they send requests on connections that are "
            "being closed."
        ),
    )
    max_connections: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description=(
            "Maximum connections of one process. Beyond that, the connection that has been idle longest is "
            "closed; if none is idle, new ones get 503, and only probes and /metrics are answered. Lowered, "
            "with a warning, to 128 below the hard limit of open files."
        ),
    )
    model_call_timeout_ms: int = Field(
        30_000,
        ge=100,
        le=3_600_000,
        description="Maximum milliseconds of one model call. A process whose model hangs longer ends.",
    )
    model_load_timeout_ms: int = Field(
        60_000,
        ge=100,
        le=3_600_000,
        description="Maximum milliseconds for the trial of a version in its own process, before it is served.",
    )
    max_body_bytes: int = Field(
        10 * 2**20,
        ge=1,
        description="Maximum bytes of a request body, before and after decompression. Beyond that, 413.",
    )
    max_inflight_bytes: int = Field(
        256 * 2**20,
        ge=1,
        description=(
            "Maximum bytes of all request bodies in memory. Beyond that, 429. Bytes count once they have "
            "arrived; a single body is always admitted."
        ),
    )
    max_image_pixels: int = Field(
        50_000_000,
        ge=1,
        description="Maximum width times height of an image. Beyond that, 413, before anything is decoded.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="File of hashed API keys. Without it, everyone may use the models and no one may change them.",
    )
    tls_certificate: Path | None = Field(
        None,
        description=(
            "PEM file of the certificate chain, the server's own certificate first. With tls_key, the "
            "service speaks HTTPS."
        ),
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, without a password.")
    cors_origins: str = Field(
        "",
        description=(
            "Origins whose pages may call the service from a browser: https://HOST[:PORT], separated by "
            "commas, or *. None by default. Letter case, default ports and a trailing slash are ignored."
        ),
    )
    drain_grace_ms: int = Field(
        0,
        ge=0,
        le=600_000,
        description=(
            "Milliseconds after SIGTERM in which readiness is off and requests are still taken. The image sets 5000."
        ),
    )
    log_format: LogFormat = Field("auto", description="console, json, or auto: console on a terminal, JSON elsewhere.")
    log_level: LogLevel = Field(
        "info",
        description=(
            "Least severe lines to log: info, warning or error. Request lines, the port and readiness are info."
        ),
    )
    log_requests: LoggedRequests = Field(
        "all", description="Requests that get a log line: all, errors (answered with 4xx or 5xx), or none."
    )
    tracing: bool = Field(
        False, description="Send traces over OTLP, configured by OTEL_* variables. Needs the extra otel."
    )
    metrics_compat: Literal["none", "triton"] = Field(
        "none",
        description=(
            "triton adds the same figures under Triton's names, nv_inference_*. For one process, not for "
            "several workers."
        ),
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options, which are always first, and variables; an empty one, as Compose makes of ${X:-}, is not set."""
        return init_settings, EnvSettingsSource(settings_cls, env_ignore_empty=True)

    @field_validator("*", mode="before")
    @classmethod
    def _stripped(cls, value: object, info: ValidationInfo) -> object:
        """Without the spaces and line ends that files and templates leave around a value."""
        if isinstance(value, str):
            value = value.strip()
            if not value and info.field_name and cls.model_fields[info.field_name].default != "":
                raise ValueError("expected a value")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, text: str) -> str:
        try:
            return normal_origins(text)
        except ValueError as error:
            raise PydanticCustomError("origins", "{reason}", {"reason": str(error)}) from error

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            found = "tls_key" if self.tls_certificate is None else "tls_certificate"
            raise ValueError(f"expected tls_certificate and tls_key together, found only {as_written(found)}")
        return self

    @model_validator(mode="after")
    def _precision_of_the_provider(self) -> Self:
        if self.cpu_precision != "fp32" and self.provider != "openvino":
            raise ValueError(
                f"{as_written('cpu_precision')} {self.cpu_precision}: expected {as_written('provider')} openvino, "
                f"found {self.provider}"
            )
        return self

    @model_validator(mode="after")
    def _one_process(self) -> Self:
        if self.workers > 1 and self.metrics_compat == "triton":
            raise ValueError(
                f"{as_written('metrics_compat')}: Triton's names are for one process, "
                f"found {as_written('workers')} {self.workers}"
            )
        return self
