"""A picture and what was found in it --> a PNG with boxes and labels."""

import colorsys
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from aaserve.bundle.pictures.decoding import decode_reduced
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.service.tasks.detection import Detection

SHORTEST, LONGEST = 448, 1600  # pixels of the longer side; others are enlarged or reduced
_GOLDEN_RATIO = (5**0.5 - 1) / 2  # its multiples, less what is whole, are spread evenly over 0..1 and never repeat
_LABEL = 60  # characters


def draw(image_bytes: bytes, found: Sequence[Detection], preprocessing: Preprocessing, *, max_pixels: int) -> bytes:
    """Draw detections into the upright picture, the best one on top. A PNG with a longer side of SHORTEST to LONGEST.

    Raises:
        ImageError: as `bundle.pictures.decoding.decode`.
    """
    image, scale = _picture(image_bytes, preprocessing, max_pixels)
    pen = ImageDraw.Draw(image)
    line = max(2, round(max(image.size) / 400))
    letters = min(max(12, max(image.size) / 45), image.width / 5, (image.height - line) / 1.3)
    font = ImageFont.load_default(max(1, round(letters)))
    assert isinstance(font, ImageFont.FreeTypeFont)  # as it has a size
    for detection in reversed(found):
        colour = colour_of(detection["class_index"])
        box = detection["box"]
        left, top, right, bottom = (box[side] * scale for side in ("left", "top", "right", "bottom"))
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=line)
        text = _text(detection, font, image.width - 2 * line)
        across, down = pen.textbbox((0, 0), text, font)[2:]
        x = max(0.0, min(left, image.width - across - 2 * line))
        y = top - down - line if top >= down + line else max(0.0, min(top, image.height - down - line))
        pen.rectangle((x, y, x + across + 2 * line, y + down + line), fill=colour)
        pen.text((x + line, y), text, (0, 0, 0), font)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def colour_of(class_index: int) -> tuple[int, int, int]:
    """A light colour for each class, far from those of the classes beside it."""
    red, green, blue = colorsys.hsv_to_rgb(class_index * _GOLDEN_RATIO % 1, 0.65, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _picture(image_bytes: bytes, preprocessing: Preprocessing, max_pixels: int) -> tuple[Image.Image, float]:
    """The upright picture in a size that can be looked at, and how many times as large it is."""

    def least_size(width: int, height: int) -> tuple[float, float]:
        scale = _scale(width, height)
        return width * scale, height * scale

    decoded = decode_reduced(
        image_bytes,
        max_pixels=max_pixels,
        background=preprocessing.background,
        exif_orientation=preprocessing.exif_orientation,
        least_size=least_size,
    )
    width, height = decoded.size
    scale = _scale(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return decoded.image.resize(size, Image.Resampling.BILINEAR, decoded.box), scale


def _scale(width: int, height: int) -> float:
    longer = max(width, height)
    return min(max(longer, SHORTEST), LONGEST) / longer


def _text(detection: Detection, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Label and score; of a long label as much as there is room for."""
    label, score = detection["label"], f"{detection['score']:.2f}"
    for length in range(min(len(label), _LABEL), 0, -1):
        text = f"{label[:length]}{'…' if length < len(label) else ''} {score}"
        if font.getlength(text) <= width:
            return text
    return score
