"""Bytes that were checked, as a file that nobody else can write: for whom wants a file, or another process."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aaserve.bundle.bundle import MODEL_FILE, Bundle

_DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def memory_file(*contents: bytes) -> Iterator[BinaryIO]:
    """A file without a name that holds `contents`, read from its beginning; in memory, where the system can (Linux).

    Raises:
        OSError: there is no room for it.
    """
    with _nameless() as file:
        for content in contents:
            file.write(content)
        file.seek(0)
        yield file


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
    with memory_file(content) as file:
        del content
        yield str(_DESCRIPTORS / str(file.fileno()))


def _nameless() -> BinaryIO:
    try:
        return open(os.memfd_create(MODEL_FILE), "w+b")  # noqa: PTH123 (a descriptor)
    except (AttributeError, OSError):  # not Linux, or forbidden in a sandbox
        return tempfile.TemporaryFile()
