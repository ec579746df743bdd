"""python docs/blood_smear.py FILE: draw a blood smear as a microscope shows it. Nothing of it is a photograph.

blood_smears/ has those of the seeds 0 to 3, which the export of aa-blood-cells was compared on.
"""

import sys
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT, FINER = 640, 480, 3  # drawn this many times as large, then reduced
BACKGROUND, RED_CELL, CENTRE, RIM = (206, 206, 208), (186, 140, 142), (200, 178, 186), (162, 108, 124)
WHITE_CELL, MEMBRANE, NUCLEUS, PLATELET = (188, 172, 208), (164, 146, 200), (104, 84, 196), (138, 122, 204)

Place = tuple[float, float, float]  # x and y of the centre, diameter
Colour = tuple[int, int, int]


def draw(seed: int = 0) -> Image.Image:
    """One white cell, red cells and three platelets."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER), BACKGROUND)
    pen = ImageDraw.Draw(image)

    def ellipse(x: float, y: float, width: float, height: float, fill: Colour, rim: Colour | None = None) -> None:
        corners = [FINER * value for value in (x - width / 2, y - height / 2, x + width / 2, y + height / 2)]
        pen.ellipse(corners, fill=fill, outline=rim, width=FINER * 4)

    x, y, diameter = 400, 210, 176
    taken: list[Place] = [(x, y, diameter)]
    ellipse(x, y, diameter, diameter * 0.95, WHITE_CELL, MEMBRANE)
    for angle in np.linspace(0.3, 5.0, 4):
        ellipse(x + 40 * np.cos(angle), y + 36 * np.sin(angle), *random.uniform(58, 76, 2), NUCLEUS)
    for x, y, diameter in _free_places(random, taken, 16, 110, overlap=0.05):
        width, height = random.uniform(0.8, 1.0, 2) * diameter
        ellipse(x, y, width, height, RED_CELL, RIM)
        if random.random() < 0.6:
            ellipse(x, y, width * 0.42, height * 0.42, CENTRE)
    for x, y, diameter in _free_places(random, taken, 3, 34, overlap=0.0):
        ellipse(x, y, *random.uniform(0.7, 1.0, 2) * diameter, PLATELET)
    blurred = image.filter(ImageFilter.GaussianBlur(FINER * 1.6)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    coarse = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    uneven = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32) - 127
    pixels = np.asarray(blurred, np.float32) + 0.05 * uneven + random.normal(0, 1.5, (HEIGHT, WIDTH, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _free_places(
    random: np.random.Generator, taken: list[Place], count: int, diameter: float, overlap: float
) -> Iterator[Place]:
    """At most `count` places that overlap with none of `taken`, to which they are added, by more than this share."""
    for _ in range(500 * count):
        x, y = random.uniform(0, WIDTH), random.uniform(0, HEIGHT)
        if all(np.hypot(x - u, y - v) > (1 - overlap) * (diameter + other) / 2 for u, v, other in taken):
            taken.append((x, y, diameter))
            count -= 1
            yield taken[-1]
        if not count:
            return


if __name__ == "__main__":
    draw().save(sys.argv[1], quality=88)
