"""serving.toml beside a model's versions: what is different for this model.

model_repository/NAME/serving.toml --> versions to serve, and settings of the service that this model overrides
"""

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from aaserve.bundle.files.text import NotText, check_regular, read_text
from aaserve.service.errors import LoadFailed
from aaserve.service.setting_names import as_written
from aaserve.service.settings import CpuPrecision, ProviderName, Settings

SERVING_FILE = "serving.toml"
Content = TypeVar("Content", bound=BaseModel)


class ModelSettings(BaseModel):
    """What serving.toml may say; the service's settings apply to the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: Literal["latest", "all"] | tuple[PositiveInt, ...] = "latest"
    provider: ProviderName | None = None
    cpu_precision: CpuPrecision | None = None
    intra_op_num_threads: int | None = None
    max_batch_size: int | None = None
    cpu_batch_ms: float | None = None
    max_queue_delay_ms: float | None = None
    max_queue_size: int | None = None

    def select(self, found: list[str], set_aside: Collection[str] = ()) -> list[str]:
        """Those of the versions `found`, ascending, that are to be served; none that is set aside.

        Raises:
            LoadFailed: a version that is named is not there.
        """
        remaining = [version for version in found if version not in set_aside]
        if self.versions == "latest":
            return remaining[-1:]
        if self.versions == "all":
            return remaining
        wanted = {str(version) for version in self.versions}
        if missing := wanted - set(found):
            raise LoadFailed(f"{SERVING_FILE}: expected versions among {', '.join(found)}, found {min(missing)}")
        return [version for version in remaining if version in wanted]


def read_serving_file(folder: Path) -> bytes:
    """The bytes of the model's serving.toml; none where it has no such file."""
    path = folder / SERVING_FILE
    return path.read_bytes() if path.exists() else b""


def read_model_settings(folder: Path, settings: Settings) -> tuple[ModelSettings, Settings]:
    """What holds for the model in `folder`: its own file, and the service's settings with it.

    Raises:
        LoadFailed: unreadable, unknown names or values out of bounds; one line.
    """
    path = folder / SERVING_FILE
    own = read_toml(path, ModelSettings)
    overrides = own.model_dump(exclude={"versions"}, exclude_none=True)
    provider = own.provider or settings.provider
    if provider != "openvino":
        if own.cpu_precision not in (None, "fp32"):
            written = "provider" if own.provider else as_written("provider")
            raise LoadFailed(
                f"{path}: cpu_precision {own.cpu_precision}: expected {written} openvino, found {provider}"
            )
        overrides["cpu_precision"] = "fp32"  # the service's is for its models on OpenVINO
    try:
        # Validated with the others, as the service's bounds hold for a model too.
        return own, Settings.model_validate({**settings.model_dump(), **overrides}) if overrides else settings
    except ValidationError as error:
        raise _invalid(path, error) from error


def read_toml(path: Path, kind: type[Content]) -> Content:
    """The content of the file; the defaults if there is no such file.

    Raises:
        LoadFailed: unreadable, unknown names or values out of bounds; one line.
    """
    text = read_if_there(path)
    try:
        return kind.model_validate(tomllib.loads(text or ""))
    except ValidationError as error:
        raise _invalid(path, error) from error
    except ValueError as error:
        raise LoadFailed(f"{path}: expected TOML, found: {' '.join(str(error).split())}") from error


def _invalid(path: Path, error: ValidationError) -> LoadFailed:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return LoadFailed(f"{path}: {where}: {first['msg']}, found {first['input']!r}")


def read_if_there(path: Path) -> str | None:
    """The text of a file beside the versions; None if there is no such file.

    Raises:
        LoadFailed: it cannot be read; one line.
    """
    try:
        check_regular(path)
        return read_text(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoadFailed(f"{path}: expected a readable file, found: {error.strerror or error}") from error
    except NotText as error:
        raise LoadFailed(str(error)) from error
