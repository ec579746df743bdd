"""Which model answers a request that names none.

setting default_model --or--> default_model in serving.toml of the repository --or--> the only one of the task
"""

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, Field

from aaserve.bundle.manifest import NAME
from aaserve.service.errors import LoadFailed
from aaserve.service.repository.model_settings import SERVING_FILE, read_toml
from aaserve.service.setting_names import as_written
from aaserve.service.settings import Settings


class RepositorySettings(BaseModel):
    """What serving.toml in the root of the repository may say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_model: str | None = Field(None, pattern=NAME)


def read_default_model(settings: Settings, found: Collection[str]) -> str | None:
    """The name that the setting or the repository gives; None if neither does.

    Args:
        found: the models in the repository.

    Raises:
        LoadFailed: there is no such model, or the file is not as expected; one line.
    """
    path = settings.repository / SERVING_FILE
    if settings.default_model:
        name, source = settings.default_model, as_written("default_model")
    elif own := read_toml(path, RepositorySettings).default_model:
        name, source = own, f"{path}: default_model"
    else:
        return None
    if name not in found:
        raise LoadFailed(f"{source}: expected a model of the repository ({', '.join(sorted(found))}), found {name!r}")
    return name


def only_model(settings: Settings, found: Collection[str]) -> str:
    """As `read_default_model`; where nothing gives a name, the only model of the repository.

    Raises:
        LoadFailed: there are several, or as `read_default_model`.
    """
    if name := read_default_model(settings, found):
        return name
    if len(found) > 1:
        raise LoadFailed(f"several models are in {settings.repository}; add --model with one of {', '.join(found)}")
    return next(iter(found))
