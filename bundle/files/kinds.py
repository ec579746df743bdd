"""The first bytes of a file --> its type, as text for an error message.

For files that were expected to be something else, such as a picture or a checkpoint. Failed downloads look the same for
all types of files.
"""

from aaserve.bundle.pictures.decoding import sniff_format

HEAD_BYTES = 4096  # enough for every type here
ONNX_MODEL = "an ONNX model"
_TEXT_SHOWN = 60

_MAGIC_NUMBERS = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer; `git lfs pull` fetches the file itself"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"%PDF", "a PDF document"),
)
_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")
_ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # fields that may follow the version in onnx.proto's ModelProto


def kind_of(head: bytes) -> str:
    """The type of a file from its first HEAD_BYTES, or from all of a shorter file."""
    if not head:
        return "an empty file"
    if image_format := picture_format(head):
        return f"a {image_format} picture"
    for magic, kind in _MAGIC_NUMBERS:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        return "a HEIC, AVIF or MP4 file"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[0] == 8 and len(head) > 2 and 0 < head[1] < 32 and head[2] in _ONNX_FIELDS:
        return ONNX_MODEL
    if head.lstrip().lower().startswith(_WEB_PAGE):
        return "a web page; the download gave a page, such as a login or an error, and not the file"
    return _text(head) or "something else"


def picture_format(head: bytes) -> str | None:
    """Like `sniff_format`, but None for text: a text that begins with "BM" would pass as BMP."""
    return None if _text(head) else sniff_format(head)


def _text(head: bytes) -> str | None:
    """The beginning of a text, None if it is not text."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # closer to the end, a character may be cut off
            return None
        text = head[: error.start].decode()
    line = next(iter(text.split("\n", 1)), "").strip()[:_TEXT_SHOWN]
    return f"text: {line!r}" if all(letter.isprintable() or letter.isspace() for letter in text) else None
