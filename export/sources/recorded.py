"""The metadata of python -m training in a checkpoint. Checked like any other input: the file may be forged."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from aaserve.export.errors import ExportError
from aaserve.export.sources.checkpoint import Checkpoint

Label = Annotated[str, Field(min_length=1, max_length=1000)]


class _Network(BaseModel):
    architecture: Annotated[str, Field(max_length=100)]
    options: dict[str, Any] = {}


class _Recipe(BaseModel):
    network: _Network | None = None
    preprocessing: dict[str, Any] | None = None


class Recorded(BaseModel):
    """Every part may be absent: checkpoints from elsewhere have no metadata."""

    labels: tuple[Label, ...] = ()
    recipe: _Recipe = _Recipe()

    @property
    def architecture(self) -> str | None:
        return self.recipe.network.architecture if self.recipe.network else None

    @property
    def preprocessing(self) -> Mapping[str, Any] | None:
        return self.recipe.preprocessing

    def options(self, architecture: str) -> dict[str, Any]:
        """Further arguments of create_model from the training, if it was this network."""
        network = self.recipe.network
        return network.options if network and network.architecture == architecture else {}


def read_recorded(checkpoint: Checkpoint) -> Recorded:
    """The metadata of the checkpoint.

    Raises:
        ExportError: it is not what python -m training writes.
    """
    try:
        return Recorded.model_validate(checkpoint.metadata)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ExportError(
            f"{checkpoint.path}: expected metadata as python -m training writes it, found another {where}: "
            f"{first['msg']}; give --arch, --labels and --preprocessing, and save the file without it"
        ) from error
