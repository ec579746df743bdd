"""GIF files: the first frame and the blocks it needs; comments and application blocks are skipped.

    header, palette, [transparent colour], frame --> a file with only that frame --> Pillow

The part of the screen outside the frame is transparent, as in browsers; Pillow fills it with the first colour.
"""

import io
from struct import Struct

from PIL.GifImagePlugin import GifImageFile

from aaserve.bundle.errors import InvalidImage
from aaserve.bundle.pictures.containers.stored import MAX_PARTS, Canvas, Stored, check_size

_SCREEN = Struct("<6sHHBBB")
_FRAME = Struct("<cHHHHB")
_EXTENSION, _FRAME_FOLLOWS, _TRAILER, _GRAPHIC_CONTROL = 0x21, 0x2C, 0x3B, 0xF9


def read_gif(image_bytes: bytes, *, max_pixels: int) -> Stored:
    """Open the first frame of a GIF file.

    Raises:
        ImageTooLarge: the screen, widened to hold the frame, has more than `max_pixels`.
        InvalidImage: no frame, or more than MAX_PARTS blocks before it.
    """
    if len(image_bytes) < _SCREEN.size:
        raise InvalidImage("the GIF image ends in its header")
    version, width, height, flags, background, aspect = _SCREEN.unpack_from(image_bytes)
    place = _SCREEN.size + _palette_length(flags)
    palette = image_bytes[_SCREEN.size : place]
    place, control = _first_frame(image_bytes, place)
    _, left, top, frame_width, frame_height, frame_flags = _FRAME.unpack_from(image_bytes, place)
    width, height = max(width, left + frame_width), max(height, top + frame_height)
    check_size(width, height, max_pixels=max_pixels)
    if not frame_width or not frame_height:
        raise InvalidImage(f"the first frame of the GIF image is {frame_width}x{frame_height} pixels")
    screen = _SCREEN.pack(version, frame_width, frame_height, flags, background, aspect)
    frame = _FRAME.pack(b",", 0, 0, frame_width, frame_height, frame_flags)
    image = GifImageFile(io.BytesIO(b"".join((screen, palette, control, frame, image_bytes[place + _FRAME.size :]))))
    whole = (frame_width, frame_height) == (width, height)
    return Stored(image, canvas=None if whole else Canvas(width, height, left, top))


def _first_frame(image_bytes: bytes, place: int) -> tuple[int, bytes]:
    """Return the position of the first frame, and the extension with its transparent colour."""
    control = b""
    blocks = MAX_PARTS
    while blocks:
        blocks -= 1
        kind = image_bytes[place] if place < len(image_bytes) else _TRAILER
        if kind == _FRAME_FOLLOWS and place + _FRAME.size < len(image_bytes):
            return place, control
        if kind in (_TRAILER, _FRAME_FOLLOWS):
            raise InvalidImage("the GIF image ends before its first frame")
        if kind != _EXTENSION:  # readers skip stray bytes
            place += 1
            continue
        label, place = image_bytes[place + 1 : place + 2], place + 2
        payload = image_bytes[place + 1 : place + 1 + image_bytes[place]] if place < len(image_bytes) else b""
        if label == bytes((_GRAPHIC_CONTROL,)) and len(payload) >= 4:
            control = b"!\xf9\x04" + payload[:4] + b"\0"
        while blocks and place < len(image_bytes) and image_bytes[place]:
            blocks -= 1
            place += 1 + image_bytes[place]
        place += 1
    raise InvalidImage(f"the GIF image has more than {MAX_PARTS} blocks before its first frame")


def _palette_length(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
