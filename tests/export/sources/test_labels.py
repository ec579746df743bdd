"""Names of classes, from a file or from those that ship."""

import json
from pathlib import Path

import pytest

from aaserve.export.errors import ExportError
from aaserve.export.sources.labels import read_labels


def test_text_and_json_give_the_same_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\nbee \nKäfer\n", encoding="utf-8")
    (tmp_path / "labels.json").write_text(json.dumps(["ant", "bee", "Käfer"]))
    expected = ("ant", "bee", "Käfer")
    assert read_labels(str(tmp_path / "labels.txt")) == read_labels(str(tmp_path / "labels.json")) == expected


def test_the_thousand_imagenet_names_ship() -> None:
    labels = read_labels("imagenet-1k")
    assert len(set(labels)) == len(labels) == 1000
    assert (labels[0], labels[207], labels[999]) == ("tench", "golden retriever", "toilet tissue")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "expected a list of names"),
        ("a.txt", b"ant\n\nbee", "label 1 is empty"),
        ("a.txt", b"ant\nbee\nant", "label 2 is 'ant' once more"),
        ("a.txt", b"\xff\xfe", "expected UTF-8 text, found UTF-16"),
        ("a.json", b"{}", "expected a list of names"),
        ("a.json", b"[1]", "expected a list of names"),
        ("a.json", b"[", "expected JSON"),
    ],
)
def test_a_malformed_list_of_names_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=message):
        read_labels(str(tmp_path / name))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="or 'imagenet-1k', found No such file"):
        read_labels(str(tmp_path / "nowhere.txt"))
