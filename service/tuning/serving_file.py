"""Settings --> a model's serving.toml, whose comments and other keys stay. Written whole or not at all."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from aaserve.bundle.files.text import replace_text
from aaserve.service.errors import LoadFailed
from aaserve.service.repository.model_settings import SERVING_FILE, read_if_there


def write_settings(folder: Path, settings: Mapping[str, str | int | float]) -> Path:
    """Set these keys in the serving.toml of a model's folder, which may have none yet; return its path.

    Raises:
        LoadFailed: it cannot be read or written, or is in a form that cannot be changed without risk; one line.
    """
    path = folder / SERVING_FILE
    old = read_if_there(path) or ""
    try:
        expected = {**tomllib.loads(old), **settings}
        new = changed(old, settings)
        if tomllib.loads(new) != expected:
            raise LoadFailed(f"{path}: expected one `key = value` in a line, found another form; set {_text(settings)}")
    except tomllib.TOMLDecodeError as error:
        raise LoadFailed(f"{path}: expected TOML, found: {error}") from error
    try:
        replace_text(path, new)
    except OSError as error:
        raise LoadFailed(f"{path}: expected to write it, found: {error.strerror or error}") from error
    return path


def changed(text: str, settings: Mapping[str, str | int | float]) -> str:
    """The same TOML with other values for these keys of its top level; new keys come last."""
    for key, value in settings.items():
        line = re.compile(rf'^(\s*"?{key}"?\s*=\s*)("[^"\n]*"|[^\s#]+)', re.MULTILINE)
        text, found = line.subn(lambda match, value=value: match[1] + json.dumps(value), text, count=1)  # type: ignore[misc]
        if not found:
            text = f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{key} = {json.dumps(value)}\n"
    return text


def _text(settings: Mapping[str, str | int | float]) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
