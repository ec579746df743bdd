"""All settings, each as option `--max-queue-size` and environment variable `AASERVE_MAX_QUEUE_SIZE`."""

import difflib
import os
import re
import sys
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from aaserve.bundle.manifest import NAME
from aaserve.service.origins import normal_origins
from aaserve.service.resources import available_cores

ProviderName = Literal["auto", "cpu", "cuda", "tensorrt"]
LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["info", "warning", "error"]
LoggedRequests = Literal["all", "errors", "none"]
_NAME = NAME.strip("^$")
_PREFIX = "AASERVE_"
# Kubernetes sets these in every pod of a namespace that has a Service called aaserve or, say, aaserve-canary.
_SERVICE_LINK = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_\w+)?")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")  # the value of AASERVE_CANARY_PORT


def _cores_of_a_worker(validated: dict[str, Any]) -> int:
    return max(1, available_cores() // int(validated["workers"]))


class Settings(BaseSettings):
    """aaserve: image in, ranked labels out. Every option can also be set as AASERVE_NAME in the environment."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix=_PREFIX,
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,  # --strict and --no-strict
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0 for any free one.")
    repository: Path = Field(Path("model_repository"), description="Folder of bundles, NAME/VERSION/.")
    default_model: str = Field(
        "",
        pattern=rf"^({_NAME})?$",
        description="Model that answers requests that name none; without it, as serving.toml in the repository says.",
    )
    strict: bool = Field(False, description="Let one model that cannot be served stop the start.")
    broken_version: Literal["fall_back", "fail"] = Field(
        "fall_back", description="Where the version to serve is broken: serve the newest older one, or not the model."
    )
    required_models: str = Field(
        "",
        pattern=rf"^({_NAME}( *, *{_NAME})*)?$",
        description="Names, separated by commas, of models without which the service is not ready.",
    )
    provider: ProviderName = Field(
        "auto", description="Execution provider; one that is asked for and not there stops the start."
    )
    workers: int = Field(1, ge=1, le=256, description="Processes that serve; they share the cores.")
    intra_op_num_threads: int = Field(
        default_factory=_cores_of_a_worker,
        ge=1,
        description="Threads of one model: on CPUs so many batches side by side, or all of them on one.",
    )
    decode_threads: int = Field(
        default_factory=_cores_of_a_worker,
        ge=1,
        le=256,
        description="Images decoded at once beside the model: all on GPUs, those of /explain on CPUs.",
    )
    intra_op_spinning: bool = Field(
        True, description="Let threads that share a model call wait busily for each other: those of a lone request."
    )
    gpu_device_id: int = Field(0, ge=0, description="Number of the GPU, for cuda and tensorrt.")
    gpu_lanes: int = Field(
        1, ge=1, le=16, description="Batches of one model in flight on a GPU: one is copied while another computes."
    )
    gpu_memory_bytes: int = Field(0, ge=0, description="Bytes that CUDA may take for tensors; 0 for no limit.")
    tf32: bool = Field(False, description="Let CUDA round products of fp32 bundles to 10 bits of fraction.")
    engine_cache: Path = Field(Path("~/.cache/aaserve"), description="Folder that keeps TensorRT's engines.")
    max_batch_size: int = Field(8, ge=1, le=1024, description="Rows in one model call, at most.")
    cpu_batch_ms: float = Field(
        20, ge=0, le=10_000, description="Milliseconds that rows may take together on a CPU; a single one always may."
    )
    max_queue_delay_ms: float = Field(
        0, ge=0, le=1000, description="Milliseconds a batch waits for company when the model is free; 0 is greedy."
    )
    max_queue_size: int = Field(
        128,
        ge=1,
        le=100_000,
        description="Rows waiting for decoding or for the model, at most; beyond that 429.",
    )
    max_queue_bytes: int = Field(
        2**30,
        ge=1,
        description="Bytes of waiting rows as the model takes them; of large rows, fewer than max_queue_size may wait.",
    )
    max_batch_items: int = Field(
        32, ge=1, le=10_000, description="Images in one request of /classify/batch, at most; beyond that 413."
    )
    request_timeout_ms: int = Field(
        10_000, ge=1, le=600_000, description="Milliseconds to answer in, if X-Request-Timeout-Ms does not say less."
    )
    client_timeout_ms: int = Field(
        10_000,
        ge=1,
        le=600_000,
        description="Milliseconds for a client to finish TLS and send a request's head, and to go on taking an answer.",
    )
    keep_alive_ms: int = Field(
        75_000,
        ge=1000,
        le=3_600_000,
        description="Milliseconds a connection stays open between two requests; more than the proxy in front keeps it.",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="Connections of one process, at most; beyond that the longest idle one is closed, or 503.",
    )
    model_call_timeout_ms: int = Field(
        30_000,
        ge=100,
        le=3_600_000,
        description="Milliseconds of one model call, at most; a process whose model hangs longer ends.",
    )
    model_load_timeout_ms: int = Field(
        60_000,
        ge=100,
        le=3_600_000,
        description="Milliseconds for the trial of a version in a process of its own, before it is served.",
    )
    max_body_bytes: int = Field(10 * 2**20, ge=1, description="Bytes of a request body, at most; beyond that 413.")
    max_inflight_bytes: int = Field(
        256 * 2**20, ge=1, description="Bytes of all request bodies in memory, at most; beyond that 429."
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Width times height of an image, at most; beyond that 413."
    )
    api_keys_file: Path | None = Field(
        None, description="File of hashed keys; without it, all may classify and none may change models."
    )
    tls_certificate: Path | None = Field(None, description="PEM file, the whole chain; with tls_key, for HTTPS.")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, without a password.")
    cors_origins: str = Field(
        "",
        description="Whose pages may ask from a browser: https://HOST[:PORT], separated by commas, or *.",
    )
    drain_grace_ms: int = Field(
        0, ge=0, le=600_000, description="Milliseconds after SIGTERM in which readiness is off and requests are taken."
    )
    log_format: LogFormat = Field("auto", description="console, json, or auto: console on a terminal, else json.")
    log_level: LogLevel = Field("info", description="Least severe lines that are logged: info, warning or error.")
    log_requests: LoggedRequests = Field(
        "all", description="Requests that get a log line each: all, errors (answered with 4xx or 5xx), or none."
    )
    tracing: bool = Field(False, description="Send traces over OTLP, as OTEL_* say; needs the extra otel.")
    metrics_compat: Literal["none", "triton"] = Field(
        "none", description="triton: the same figures also under Triton's names, nv_inference_*; for one process."
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
    def _one_process(self) -> Self:
        if self.workers > 1 and self.metrics_compat == "triton":
            raise ValueError(
                f"{as_written('metrics_compat')}: Triton's names are for one process, "
                f"found {as_written('workers')} {self.workers}"
            )
        return self


def as_written(name: str) -> str:
    """A setting as the user gave it: the option or the variable; its plain name if it is a default."""
    option = f"--{name.replace('_', '-')}"
    given = {argument.partition("=")[0] for argument in sys.argv[1:]}
    if given & {option, f"--no-{option[2:]}"}:
        return option
    return next((variable for variable in os.environ if variable.upper() == _PREFIX + name.upper()), name)


def unknown_variables() -> list[str]:
    """A line for each variable of ours in the environment that is no setting, most likely a misspelt one."""
    known = [name.upper() for name in Settings.model_fields]
    lines = []
    for variable in sorted(os.environ):
        prefix, name = variable[: len(_PREFIX)].upper(), variable[len(_PREFIX) :].upper()
        link = _SERVICE_LINK.fullmatch(name) or _SERVICE_ADDRESS.fullmatch(os.environ[variable])
        if prefix == _PREFIX and name not in known and not link:
            near = difflib.get_close_matches(name, known, n=1)
            lines.append(f"{variable} is no setting" + (f"; did you mean {_PREFIX}{near[0]}?" if near else ""))
    return lines
