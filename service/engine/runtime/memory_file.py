"""A model that was checked, as a file that no other process can write."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aaserve.bundle.bundle import MODEL_FILE, Bundle

_DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def model_file(bundle: Bundle, *, as_path: bool = True) -> Iterator[str | bytes]:
    """The bundle's model as `InferenceSession` takes it: the very bytes whose sha256 was checked.

    A path saves memory: a session keeps bytes for as long as it lives.

    Args:
        as_path: give a path where the system can (Linux).

    Raises:
        BundleError: the model is no longer what the manifest says.
        OSError: there is no room for it.
    """
    content = bundle.content(MODEL_FILE)
    if not as_path or not _DESCRIPTORS.is_dir():
        yield content
        return
    with _nameless() as file:
        file.write(content)
        file.flush()
        del content
        yield str(_DESCRIPTORS / str(file.fileno()))


def _nameless() -> BinaryIO:
    try:
        return open(os.memfd_create(MODEL_FILE), "w+b")  # noqa: PTH123 (a descriptor)
    except (AttributeError, OSError):  # not Linux, or forbidden in a sandbox
        return tempfile.TemporaryFile()
