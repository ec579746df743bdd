"""references.json: PyTorch's answers to known pictures, so that a bundle can be checked where there is no torch."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bundle.errors import BundleError


class Reference(BaseModel):
    """One picture and PyTorch's logits for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str = Field(pattern=r"^[^/\\]+$", description="File name.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the picture's bytes.")
    logits: tuple[float, ...]


_REFERENCES = TypeAdapter(tuple[Reference, ...])


def read_references(path: Path) -> tuple[Reference, ...]:
    """Read references.json.

    Raises:
        BundleError: unreadable or malformed; one line.
    """
    try:
        return _REFERENCES.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BundleError(f"{path}: expected references (picture, sha256, logits), found something else") from error


def references_json(references: tuple[Reference, ...]) -> bytes:
    """The bytes of references.json."""
    return _REFERENCES.dump_json(references, indent=1) + b"\n"
