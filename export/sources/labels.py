"""The class names: from a file, or built in."""

import json
from collections.abc import Sequence
from pathlib import Path

from aaserve.bundle.files.text import NotText, is_one_line, read_text
from aaserve.export.errors import ExportError

_SHIPPED = Path(__file__).parent
IMAGENET = "imagenet-1k"  # one name per class in the usual order, chosen by torchvision


def read_labels(source: str) -> tuple[str, ...]:
    """Read a text file (one label a line), a JSON list, or the built-in names "imagenet-1k".

    Raises:
        ExportError: no such file, not a list of names, or an empty or repeated name.
    """
    path = _SHIPPED / f"{IMAGENET}.txt" if source == IMAGENET else Path(source)
    try:
        text = read_text(path)
        labels = json.loads(text) if path.suffix.lower() == ".json" else _lines(text)
    except OSError as error:
        raise ExportError(f"{path}: expected a file of labels or {IMAGENET!r}, found {error.strerror}") from error
    except NotText as error:
        raise ExportError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: expected JSON, found: {error}") from error
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise ExportError(f"{path}: expected a list of names")
    return check_labels([label.strip() for label in labels], path)


def check_labels(labels: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the labels of `path`.

    Raises:
        ExportError: one is empty, repeated, or has a line break or another control character.
    """
    seen = set()
    for number, label in enumerate(labels):
        if not label or label in seen:
            raise ExportError(f"{path}: label {number} is {'empty' if not label else f'{label!r} once more'}")
        if not is_one_line(label):
            raise ExportError(f"{path}: label {number} has a line break or a control character: {label!r}")
        seen.add(label)
    return tuple(labels)


def _lines(text: str) -> list[str]:
    """The lines without empty ones at the end; splitlines() would also split at a form feed."""
    return text.rstrip().split("\n") if text.strip() else []
