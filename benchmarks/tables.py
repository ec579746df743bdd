"""Results as tables in a document, between <!-- NAME --> and <!-- end NAME -->: it says what was measured last."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown; everything but the first column to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(document: Path, name: str) -> str:
    """What stands there now."""
    return document.read_text().split(f"<!-- {name} -->\n\n")[1].split(f"\n\n<!-- end {name} -->")[0]


def rewrite(document: Path, name: str, text: str) -> None:
    """Put `text` there."""
    before = document.read_text()
    document.write_text(before.replace(section(document, name), text))
