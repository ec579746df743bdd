"""Text files: read in UTF-8, with or without a byte-order mark, with LF, CRLF or CR; written whole or not at all."""

import os
import tempfile
import unicodedata
from pathlib import Path

_OTHER_MARKS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


class NotText(ValueError):
    """Bytes that are not UTF-8 text; the message is one line and says what was found."""


def read_text(path: Path) -> str:
    """Read a text file; every line ends with LF.

    Raises:
        OSError: it cannot be read.
        NotText: it has another encoding or is not text; the message begins with the path.
    """
    try:
        return decode_text(path.read_bytes())
    except NotText as error:
        raise NotText(f"{path}: {error}") from error


def decode_text(content: bytes) -> str:
    """Decode the bytes of a text file; every line ends with LF.

    Raises:
        NotText: they have another encoding or are not text.
    """
    for mark, encoding in _OTHER_MARKS.items():
        if content.startswith(mark):
            raise NotText(f"expected UTF-8 text, found {encoding}; save it as UTF-8")
    if b"\0" in content:
        raise NotText("expected UTF-8 text, found a zero byte: UTF-16, or no text at all")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise NotText(
            f"expected UTF-8 text, found the byte 0x{content[error.start]:02x} in line {line}; save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def replace_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all. A file that is already there gives its permissions to the new one.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        partial.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)  # mkstemp makes it private
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_regular(path: Path) -> None:
    """Refuse a path that exists and is not a regular file: reading a pipe may block for ever.

    Raises:
        OSError: it is a folder, a pipe, a socket or a device, or it is not accessible.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{'a folder' if path.is_dir() else 'a pipe, a socket or a device'}, not a regular file")


def is_one_line(text: str) -> bool:
    """True if `text` has no control character, line break or lone surrogate, so that it fits into one line of text.

    Stricter tests, such as `str.isprintable`, also reject letters that languages need: the zero-width non-joiner of
    Persian, or a no-break space.
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)
