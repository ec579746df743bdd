"""What a run did, an epoch a line: `log.csv`, and the same as curves."""

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

SCORES = {"top_1": "top-1", "ap_50": "AP50"}  # the column of each task that is drawn

Row = dict[str, float | int | None]  # None: not evaluated after this epoch


def write_log(path: Path, history: Sequence[Row]) -> None:
    """Write all rows; the file is whole or the previous one stays."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
    partial.replace(path)


def draw_curves(path: Path, histories: dict[str, Sequence[Row]]) -> None:
    """Loss while training and the score on the test images over epochs, a line for each named run, as PNG."""
    first = next(iter(histories.values()))[0]
    score = next(column for column in SCORES if column in first)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, column, title in zip(
        figure.subplots(1, 2), ("loss", score), ("loss, training images", f"{SCORES[score]}, test images"), strict=True
    ):
        for name, history in histories.items():
            points = [(row["epoch"], row[column]) for row in history if row[column] is not None]
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) == 1 else None)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
    if len(histories) > 1:
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
