"""What is named on the command line --> paths of files, each once.

a folder, with all below it; a glob, quoted from the shell; a file; - for paths on stdin, one a line
"""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from aaserve.bundle.pictures.picture_files import find_pictures

STDIN = "-"


def find_files(named: Sequence[str], stdin: Iterable[bytes]) -> tuple[list[str], Counter[str]]:
    """Return the paths, and of folders how many files were left out, by reason.

    Of folders, files are taken that are pictures by their content or by their name. What is named itself, or by stdin,
    is taken whatever it is.

    Raises:
        ValueError: there is no such file or folder, or the folder cannot be read; one line.
    """
    paths: list[str] = []
    left_out: Counter[str] = Counter()
    for name in named:
        if name == STDIN:
            paths += [os.fsdecode(line.rstrip(b"\r\n")) for line in stdin if line.strip()]
        elif Path(name).is_dir():
            found = find_pictures(Path(name), deeper=True, damaged="take")
            paths += map(str, found.pictures)
            left_out += found.left_out
        elif Path(name).exists():
            paths.append(name)
        elif glob.has_magic(name) and (matches := glob.glob(name, recursive=True)):  # noqa: PTH207 (keeps ./)
            paths += sorted(match for match in matches if not Path(match).is_dir())
        else:
            raise ValueError(f"{name}: expected a file, a folder or a glob that matches one, found none")
    return list(dict.fromkeys(paths)), left_out
