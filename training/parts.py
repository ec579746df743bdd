"""python -m training split FILE [--mib 16] | join FILE: a checkpoint in parts, for ways that take small files only.

FILE --split--> FILE.parts.json, FILE.part-001, FILE.part-002, … --join--> FILE
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from aaserve.bundle.text import read_text

MIB = 2**20


def split(path: Path, part_bytes: int) -> list[Path]:
    """Write the parts, and a list of them with their sha256; returns all these files.

    Raises:
        FileNotFoundError: nothing to split.
    """
    parts, digests = [], []
    with path.open("rb") as file:
        while chunk := file.read(part_bytes):
            parts.append(path.with_name(f"{path.name}.part-{len(parts) + 1:03}"))
            parts[-1].write_bytes(chunk)
            digests.append(hashlib.sha256(chunk).hexdigest())
    listing = _listing(path)
    content = {part.name: digest for part, digest in zip(parts, digests, strict=True)}
    listing.write_text(json.dumps(content, indent=2) + "\n")
    return [listing, *parts]


def join(path: Path) -> None:
    """Put the parts of `path` together again; the file is whole or absent.

    Raises:
        FileNotFoundError: the list or a part is missing.
        FileExistsError: `path` is there already.
        ValueError: a part is not what it was.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    digests = json.loads(read_text(_listing(path)))
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        for name, expected in digests.items():
            chunk = path.with_name(name).read_bytes()
            if hashlib.sha256(chunk).hexdigest() != expected:
                raise ValueError(f"{path.with_name(name)}: not the part that was written (sha256)")
            file.write(chunk)
    partial.replace(path)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m training", description="A checkpoint in small parts, and back.")
    parser.add_argument("verb", choices=("split", "join"))
    parser.add_argument("file", type=Path, help="checkpoint; for join, the name it had before")
    parser.add_argument("--mib", type=int, default=16, help="largest part in MiB (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        if arguments.verb == "join":
            join(arguments.file)
            print(arguments.file)
        elif arguments.mib < 1:
            raise ValueError(f"--mib must be at least 1, got {arguments.mib}")
        else:
            print(*split(arguments.file, arguments.mib * MIB), sep="\n")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _listing(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts.json")
