"""Answers --> a file of lines, one for each picture, which a later run goes on with.

JSONL   {"path", "model", "version", "predictions"}, or in the place of the last "problem": {"status", "code", "detail"}
CSV     path, model, version, label_1, class_index_1, score_1, … code, detail

A line that was cut off, because the run or the machine stopped while it was written, is removed, and its picture is
answered again. A file that is not ours stays as it is.
"""

import csv
import fcntl
import io
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from aaserve.bundle.manifest import Manifest
from aaserve.service.errors import ServiceError
from aaserve.service.offline.classifier import Answer

FORMATS = (".csv", ".jsonl")
_JSONL_START = b'{"path":'
Line = tuple[str, str, str, int, bool]  # path, model, version, labels, whether it is an error


class Results:
    """Where answers are written, and what is there already: `done` paths, `failed` of them with an error.

    Args:
        path: a file of one of FORMATS; None for JSONL on stdout.

    Raises:
        ValueError: the file is not ours, or of another model or number of labels, or cannot be written; one line.
    """

    def __init__(self, path: Path | None, manifest: Manifest, top_k: int) -> None:
        self._path = path
        self._csv = path is not None and path.suffix == ".csv"
        self._about = {"model": manifest.name, "version": manifest.version}
        self._top_k = top_k
        self._header = ["path", *self._about]
        for rank in range(1, top_k + 1):
            self._header += [f"label_{rank}", f"class_index_{rank}", f"score_{rank}"]
        self._header += ["code", "detail"]
        self.done: set[str] = set()
        self.failed = 0
        self._file: BinaryIO = sys.stdout.buffer
        if path is None:
            return
        try:
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise ValueError(f"{path}: expected a file to write to, found: {error.strerror or error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._go_on(path)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"{path}: another run is writing it") from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.close()

    def write(self, answer: Answer) -> None:
        """Write a line, whole.

        Raises:
            OSError: the disk is full, or the reader of stdout has ended.
        """
        self.failed += isinstance(answer.outcome, ServiceError)
        line = memoryview(self._csv_line(answer) if self._csv else self._json_line(answer))
        while line:
            line = line[self._file.write(line) :]
        self._file.flush()

    def _json_line(self, answer: Answer) -> bytes:
        outcome = answer.outcome
        members: dict[str, Any] = {"path": answer.path, **self._about}
        if isinstance(outcome, ServiceError):
            members["problem"] = {"status": outcome.status, "code": outcome.code, "detail": str(outcome)}
        else:
            members["predictions"] = outcome
        try:
            return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        except UnicodeEncodeError:  # a name that is no valid text
            return json.dumps(members, separators=(",", ":")).encode() + b"\n"

    def _csv_line(self, answer: Answer) -> bytes:
        outcome = answer.outcome
        cells: list[object] = [answer.path, *self._about.values()]
        if isinstance(outcome, ServiceError):
            cells += [""] * (3 * self._top_k) + [outcome.code, str(outcome)]
        else:
            for one in outcome:
                cells += [one["label"], one["class_index"], one["score"]]
            cells += ["", ""]
        return _csv_bytes(cells)

    def _go_on(self, path: Path) -> None:
        """Note what is done, and remove a line that was cut off."""
        self._file.seek(0)
        end = 0
        reader = io.BufferedReader(self._file)  # type: ignore[type-var]
        lines = self._csv_lines(reader, path) if self._csv else self._json_lines(reader, path)
        for end, line in lines:  # noqa: B007 (the last one is where to cut)
            if line is None:
                continue
            name, model, version, labels, failed = line
            if (model, version) != tuple(self._about.values()) or (not failed and labels != self._top_k):
                raise ValueError(
                    f"{path}: holds {labels} labels of {model} version {version}, and this run gives {self._top_k} of "
                    f"{' version '.join(self._about.values())}; name another file"
                )
            self.done.add(name)
            self.failed += failed
        reader.detach()
        self._file.truncate(end)
        if self._csv and not end:
            self._file.write(_csv_bytes(self._header))

    def _json_lines(self, reader: "io.BufferedReader[Any]", path: Path) -> Iterator[tuple[int, Line | None]]:
        """Whole lines, and where each ends."""
        end = 0
        for number, line in enumerate(reader, 1):
            if not (line.startswith(_JSONL_START) or _JSONL_START.startswith(line)):
                raise ValueError(f"{path}: line {number} is none of aaserve classify; name another file")
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                row = json.loads(line)
                failed = "problem" in row
                labels = 0 if failed else len(row["predictions"])
                yield end, (str(row["path"]), str(row["model"]), str(row["version"]), labels, failed)
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(f"{path}: line {number} is none of aaserve classify; name another file") from error

    def _csv_lines(self, reader: "io.BufferedReader[Any]", path: Path) -> Iterator[tuple[int, Line | None]]:
        """The header, then whole lines, and where each ends."""
        header = _csv_bytes(self._header)
        first = reader.readline()
        if first != header:
            if header.startswith(first):  # nothing, or cut off
                return
            raise ValueError(
                f"{path}: expected the columns {', '.join(self._header[:6])}, … for {self._top_k} labels, "
                f"found others; name another file"
            )
        end = len(first)
        yield end, None
        last = b"\n"

        def fed() -> Iterator[str]:
            nonlocal end, last
            for last in reader:
                end += len(last)
                yield last.decode(errors="surrogateescape")

        with suppress(csv.Error):  # cut off within quotes
            for row in csv.reader(fed(), strict=True):
                if not last.endswith(b"\n"):
                    return
                if len(row) != len(self._header):
                    raise ValueError(f"{path}: a line of {len(row)} columns is none of aaserve classify")
                yield end, (row[0], row[1], row[2], self._top_k, bool(row[-2]))


def _csv_bytes(cells: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(errors="surrogateescape")
