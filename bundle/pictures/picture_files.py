"""A folder --> its pictures, and counts of other files. The content decides, not the name.

entry --hidden, of the system?--> left out, counted
      --first bytes of a picture?--> picture
      --suffix of a picture?--> refused: the data set is damaged
      --> left out, counted by suffix
"""

from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aaserve.bundle.files.kinds import HEAD_BYTES, kind_of, picture_format

_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_SYSTEM = {  # files of macOS, Windows, Synology, QNAP and ext4; names that begin with a dot are skipped too
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "@eadir",
    "#recycle",
    "@__thumb",
    "@recycle",
    "lost+found",
    "__pycache__",
}
_SKIPPED = "hidden or system"
_READERS = 16  # threads; opening each file takes long on a network drive
_KINDS_TOLD = 5


@dataclass(frozen=True)
class FolderContents:
    """The content of a folder: sorted pictures, sorted visible folders, and counts of left-out files by reason."""

    pictures: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)


def find_pictures(
    folder: Path, *, deeper: bool = False, damaged: Literal["refuse", "take"] = "refuse"
) -> FolderContents:
    """Find the pictures in `folder`.

    Args:
        deeper: include the pictures of all folders below; then `folders` is empty. Links to folders are left out,
            because they may form a cycle.
        damaged: what to do with unreadable files and with files that have a picture's suffix but are not pictures.

    Raises:
        ValueError: a folder cannot be read, or a file is damaged and must be refused.
    """
    files, folders, left_out = _walk(folder, deeper=deeper)
    with ThreadPoolExecutor(_READERS) as pool:
        kinds = list(pool.map(_picture_or_kind if damaged == "refuse" else _named_or_kind, files))
    pictures = [path for path, kind in zip(files, kinds, strict=True) if kind is None]
    others = [(path, kind) for path, kind in zip(files, kinds, strict=True) if kind is not None]
    refused = [(path, kind) for path, kind in others if path.suffix.lower() in _SUFFIXES]
    if refused:
        path, kind = refused[0]
        more = f" (and {len(refused) - 1:,} more such files in {folder})" if len(refused) > 1 else ""
        raise ValueError(f"{path}: expected a picture, as its name says, found {kind}{more}")
    left_out.update(path.suffix.lower() or "without suffix" for path, _ in others)
    return FolderContents(tuple(pictures), tuple(folders), left_out)


def told(left_out: Counter[str]) -> str:
    """What was left out, as text; empty if nothing was."""
    if not left_out:
        return ""
    first = left_out.most_common(_KINDS_TOLD)
    rest = left_out.total() - sum(count for _, count in first)
    parts = [f"{count:,} {why}" for why, count in first] + ([f"{rest:,} others"] if rest else [])
    return f"left out: {', '.join(parts)}"


def total(counts: Iterable[Counter[str]]) -> Counter[str]:
    """The sum of all counts."""
    return sum(counts, Counter())


def _walk(folder: Path, *, deeper: bool) -> tuple[list[Path], list[Path], Counter[str]]:
    """Files and folders, sorted, including the targets of links; broken links count as files."""
    files: list[Path] = []
    folders: list[Path] = []
    left_out: Counter[str] = Counter()
    waiting = deque([folder])
    while waiting:
        inner = waiting.popleft()
        try:
            for path in inner.iterdir():
                if path.name.startswith(".") or path.name.lower() in _SYSTEM:
                    left_out[_SKIPPED] += 1
                elif path.is_dir():
                    if not deeper:
                        folders.append(path)
                    elif path.is_symlink():
                        left_out["linked folders"] += 1
                    else:
                        waiting.append(path)
                elif path.is_file() or path.is_symlink():
                    files.append(path)
                else:
                    left_out["devices, pipes or sockets"] += 1  # reading from one may never end
        except OSError as error:
            raise ValueError(f"{inner}: expected a readable folder, found: {error.strerror or error}") from error
    return sorted(files), sorted(folders), left_out


def _picture_or_kind(path: Path) -> str | None:
    """None for a picture, otherwise the type of the file."""
    if path.is_symlink() and not path.exists():
        return "a link to a file that does not exist"
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise ValueError(f"{path}: expected a readable file, found: {error.strerror or error}") from error
    return None if picture_format(head) else kind_of(head)


def _named_or_kind(path: Path) -> str | None:
    """None for a file that is a picture or has a picture's suffix, otherwise the type of the file."""
    if path.suffix.lower() in _SUFFIXES:
        return None
    try:
        return _picture_or_kind(path)
    except ValueError:
        return "unreadable"
