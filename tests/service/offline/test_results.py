"""The output of aaserve classify, which a later run goes on with."""

import csv
import json
import os
from pathlib import Path

import pytest

from aaserve.bundle.bundle import open_bundle
from aaserve.service.errors import InvalidImage
from aaserve.service.offline.classifier import Answer
from aaserve.service.offline.results import Results
from aaserve.service.tasks.classification import ClassScore
from tests.helpers import REPOSITORY

MANIFEST = open_bundle(REPOSITORY / "aa-cifar100" / "1").manifest
PREDICTIONS: list[ClassScore] = [
    {"label": "a, b", "class_index": 0, "score": 0.5},
    {"label": "é", "class_index": 1, "score": 1e-5},
]
ODD = ['a "b", c.png', "new\nline.png", os.fsdecode(b"latin-\xe9.png"), "last.png"]
ANSWERS = [Answer(path, PREDICTIONS) for path in ODD[:3]] + [Answer(ODD[3], InvalidImage("damaged,\nvery"))]


def line(path: str, **members: object) -> bytes:
    about = {"path": path, "model": "aa-cifar100", "version": "1", "predictions": PREDICTIONS[:1]}
    return json.dumps(about | members, separators=(",", ":")).encode() + b"\n"


def go_on(path: Path) -> tuple[set[str], int]:
    """Write what is not done yet; what was done before, and how many failed in the end."""
    with Results(path, MANIFEST, 2) as results:
        done = set(results.done)
        for answer in ANSWERS:
            if answer.path not in done:
                results.write(answer)
        return done, results.failed


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_an_output_cut_off_anywhere_is_gone_on_with(name: str, tmp_path: Path) -> None:
    output = tmp_path / name
    assert go_on(output) == (set(), 1)
    whole = output.read_bytes()
    assert go_on(output) == (set(ODD), 1)
    for cut in range(len(whole)):
        output.write_bytes(whole[:cut])
        done, failed = go_on(output)
        assert (output.read_bytes(), failed) == (whole, 1), cut
        assert done == set(ODD[: len(done)])


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    for name in ("out.csv", "out.jsonl"):
        go_on(tmp_path / name)
    with (tmp_path / "out.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(each) for each in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [row["path"] for row in rows] == [each["path"] for each in lines] == ODD
    assert [row["label_2"] for row in rows] == ["é", "é", "é", ""]
    assert [each["predictions"] for each in lines[:3]] == [PREDICTIONS] * 3
    assert lines[3]["problem"] == {"status": 400, "code": rows[3]["code"], "detail": rows[3]["detail"]}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.csv", b"name,age\nx,1\n", "expected the columns"),
        ("notes.jsonl", b'{"name": "x"}\n', "line 1 is none of aaserve classify"),
        ("notes.jsonl", b"my only copy", "line 1 is none of aaserve classify"),
        ("other.jsonl", line("x.png", model="mine"), "holds 1 labels of mine version 1"),
        ("more.jsonl", line("x.png"), "and this run gives 2 of aa-cifar100"),
    ],
    ids=["csv", "jsonl", "no line", "another model", "another number of labels"],
)
def test_a_file_of_something_else_stays_as_it_is(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    output = tmp_path / name
    output.write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        go_on(output)
    assert str(caught.value).startswith(f"{output}: ")
    assert output.read_bytes() == content


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    with Results(output, MANIFEST, 2), pytest.raises(ValueError, match="another run is writing it"):
        go_on(output)
    go_on(output)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere/out\.csv: expected a file to write to, found: No such file"):
        go_on(tmp_path / "nowhere" / "out.csv")
