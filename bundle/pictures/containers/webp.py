"""WebP files: the first frame and its alpha channel; profiles, XMP and unknown chunks are skipped.

    RIFF, [VP8X], [first ANMF], [ALPH], VP8 or VP8L, [EXIF] --> a file with only that frame --> Pillow

Pillow reads all WebP files with libwebp's animation decoder, which refuses a file with truncated metadata.
"""

import io
from struct import Struct

from PIL.WebPImagePlugin import WebPImageFile

from aaserve.bundle.errors import InvalidImage
from aaserve.bundle.pictures.containers.exif import orientation_of
from aaserve.bundle.pictures.containers.stored import MAX_PARTS, Canvas, Stored, check_size

# Memory of libwebp and Pillow per pixel (16 bytes), relative to a JPEG (4). Pillow also holds the interpreter lock
# while libwebp decodes, for a time that grows with the pixels.
SHARE = 4
_CHUNK = Struct("<4sI")
_SHORTS = Struct("<HH").unpack_from
_LONG = Struct("<I").unpack_from
_RIFF_HEADER = 12
_ANIMATION_HEADER = 16  # bytes of ANMF before its chunks
_ALPHA = 0x10  # flag of VP8X


def read_webp(image_bytes: bytes, *, max_pixels: int) -> Stored:
    """Open the first frame of a WebP file.

    Raises:
        ImageTooLarge: the canvas or the frame has more than `max_pixels` / SHARE.
        InvalidImage: no complete frame.
    """
    canvas, frame, exif = _parts(image_bytes, max_pixels)
    name, alpha, pixels = frame
    width, height = _size(name, pixels)
    check_size(width, height, max_pixels=max_pixels, share=SHARE, of="WebP")
    chunks = _packed(name, pixels)
    if alpha and name == b"VP8 ":
        flags = bytes((_ALPHA, 0, 0, 0)) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        chunks = _packed(b"VP8X", flags) + _packed(b"ALPH", alpha) + chunks
    image = WebPImageFile(io.BytesIO(_CHUNK.pack(b"RIFF", 4 + len(chunks)) + b"WEBP" + chunks))
    if canvas and (canvas.left + width > canvas.width or canvas.top + height > canvas.height):
        raise InvalidImage(f"the frame of the WebP image does not fit its canvas of {canvas.width}x{canvas.height}")
    if canvas and canvas[:2] == (width, height):
        canvas = None
    return Stored(image, orientation_of(exif), canvas)


def _parts(image_bytes: bytes, max_pixels: int) -> tuple[Canvas | None, tuple[bytes, bytes, bytes], bytes]:
    """Return the canvas, if there is one; the first frame, like `_frame`; the EXIF data."""
    canvas: Canvas | None = None
    frame, exif, alpha = (b"", b"", b""), b"", b""
    place = _RIFF_HEADER
    for _ in range(MAX_PARTS):
        if place + _CHUNK.size > len(image_bytes):
            break
        name, length = _CHUNK.unpack_from(image_bytes, place)
        start, place = place + _CHUNK.size, place + _CHUNK.size + length + length % 2
        if name == b"EXIF":
            exif = exif or image_bytes[start : start + length]
        elif frame[0]:
            continue  # chunks after the first frame do not affect it
        elif name == b"VP8X" and canvas is None and length >= 10:
            canvas = Canvas(_three(image_bytes, start + 4) + 1, _three(image_bytes, start + 7) + 1, 0, 0)
            check_size(canvas.width, canvas.height, max_pixels=max_pixels, share=SHARE, of="WebP")
        elif name == b"ANMF" and canvas and length >= _ANIMATION_HEADER:
            canvas = canvas._replace(left=2 * _three(image_bytes, start), top=2 * _three(image_bytes, start + 3))
            frame = _frame(image_bytes, start + _ANIMATION_HEADER, start + length)
        elif name == b"ALPH":
            alpha = image_bytes[start : start + length]
        elif name in (b"VP8 ", b"VP8L"):
            frame = _frame(image_bytes, start - _CHUNK.size, place)
            frame = (frame[0], alpha, frame[2])
    if not frame[0]:
        raise InvalidImage("the WebP image has no frame")
    return canvas, frame, exif


def _frame(image_bytes: bytes, place: int, end: int) -> tuple[bytes, bytes, bytes]:
    """Return the name of the chunk with the colours, the alpha channel, and the colours."""
    alpha = b""
    for _ in range(MAX_PARTS):
        if place + _CHUNK.size > min(end, len(image_bytes)):
            break
        name, length = _CHUNK.unpack_from(image_bytes, place)
        start, place = place + _CHUNK.size, place + _CHUNK.size + length + length % 2
        if name == b"ALPH":
            alpha = image_bytes[start : start + length]
        if name in (b"VP8 ", b"VP8L"):
            if start + length > len(image_bytes):
                raise InvalidImage("the WebP image ends in the middle of its pixels")
            return name, alpha, image_bytes[start : start + length]
    raise InvalidImage("the first frame of the WebP image has no pixels")


def _size(name: bytes, pixels: bytes) -> tuple[int, int]:
    """(width, height) from the header of the pixels (RFC 6386, section 9.1; RFC 9649, section 3.4)."""
    if name == b"VP8L" and len(pixels) >= 5 and pixels[0] == 0x2F:
        (bits,) = _LONG(pixels, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8 " and len(pixels) >= 10 and pixels[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in _SHORTS(pixels, 6))
        if width and height:
            return width, height
    raise InvalidImage("the pixels of the WebP image are damaged")


def _packed(name: bytes, payload: bytes) -> bytes:
    return b"".join((_CHUNK.pack(name, len(payload)), payload, bytes(len(payload) % 2)))


def _three(image_bytes: bytes, place: int) -> int:
    return int.from_bytes(image_bytes[place : place + 3], "little")
