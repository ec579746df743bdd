"""Text files as other programs save them: with a byte-order mark, CRLF, in UTF-16. Every reader of text is here."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.files.text import NotText, decode_text, is_one_line, replace_text
from aaserve.bundle.references.references import read_references
from aaserve.export.command import _measurement
from aaserve.export.errors import ExportError
from aaserve.export.preprocessing.presets import read_preprocessing
from aaserve.export.sources.labels import read_labels
from aaserve.service.errors import StartFailed
from aaserve.service.http.keys import Keys
from aaserve.service.process.tls import Certificate
from aaserve.service.repository.model_settings import read_model_settings
from aaserve.service.settings import Settings
from aaserve.training.recipe import read_recipe
from tests.helpers import REPOSITORY, ROOT

SHIPPED = REPOSITORY / "aa-cifar100" / "1"
RECIPE = (ROOT / "training" / "recipes" / "aa_cifar100.toml").read_text()
ACCURACY = {"dataset": "x", "images": 1, "top_1": 1, "top_5": 1, "measured": "x"}


def manifest_in(folder: Path) -> object:
    bundle = Path(shutil.copytree(SHIPPED, folder / "aa-cifar100" / "1"))
    shutil.copy(folder / "file.txt", bundle / "manifest.json")
    return open_bundle(bundle).manifest


def serving(folder: Path) -> object:
    shutil.copy(folder / "file.txt", folder / "serving.toml")
    return read_model_settings(folder, Settings(provider="cpu"))[0]


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "labels": ("ant\nbee\nKäfer\n", lambda folder: read_labels(str(folder / "file.txt"))),
    "labels in JSON": (
        '["ant", "Käfer"]\n',
        lambda folder: read_labels(str(shutil.copy(folder / "file.txt", folder / "a.json"))),
    ),
    "preprocessing": (RECIPE, lambda folder: read_preprocessing(str(folder / "file.txt"))),
    "recipe": (RECIPE, lambda folder: read_recipe(folder / "file.txt")),
    "accuracy": (
        json.dumps({"accuracy": ACCURACY, "model": {"sha256": "0" * 64}}, indent=1),
        lambda folder: _measurement(folder / "file.txt"),
    ),
    "manifest": ((SHIPPED / "manifest.json").read_text(), manifest_in),
    "references": ((SHIPPED / "references.json").read_text(), lambda folder: read_references(folder / "file.txt")),
    "serving.toml": ("# für alle\nmax_batch_size = 3\n", serving),
    "keys": (f"# für alle\ninfer {'0' * 64}\n", lambda folder: bool(Keys(folder / "file.txt"))),
}


@pytest.mark.parametrize(("text", "read"), READERS.values(), ids=READERS.keys())
def test_a_byte_order_mark_and_crlf_change_nothing(text: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    found = []
    for number, content in enumerate((text.encode(), f"\ufeff{text}\n\n".replace("\n", "\r\n").encode())):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file.txt").write_bytes(content)
        found.append(read(tmp_path / str(number)))
    assert found[0] == found[1]
    assert found[0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize(("text", "read"), READERS.values(), ids=READERS.keys())
def test_another_encoding_is_named(text: str, read: Callable[[Path], object], tmp_path: Path, encoding: str) -> None:
    (tmp_path / "file.txt").write_bytes(text.encode(encoding))
    with pytest.raises(Exception, match=f"expected UTF-8 text, found {encoding.upper()}; save it as UTF-8") as raised:
        read(tmp_path)
    assert "\n" not in str(raised.value)
    assert type(raised.value).__name__ in (
        "BundleError",
        "ExportError",
        "LoadFailed",
        "StartFailed",
        "ValueError",
        "NotText",
    )


def test_bytes_that_are_no_utf8_are_named_with_their_line() -> None:
    with pytest.raises(NotText, match="found the byte 0xe4 in line 2; save it as UTF-8"):
        decode_text("a\nKäfer".encode("latin-1"))
    with pytest.raises(NotText, match="a zero byte: UTF-16, or no text at all"):
        decode_text("ant".encode("utf-16-be"))


def test_a_form_feed_in_a_comment_hides_no_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"infer {'0' * 64} form\x0cfeed\u2028and more\n")
    Keys(tmp_path / "keys")
    (tmp_path / "labels").write_text("ant\x0cbee\nwasp")
    with pytest.raises(
        ExportError, match=r"label 0 has a line break or a control character: 'ant\\x0cbee'"
    ):  # one label, not two
        read_labels(str(tmp_path / "labels"))


@pytest.mark.parametrize(
    "read",
    [Keys, lambda path: Certificate(path, path), lambda path: read_model_settings(path.parent, Settings())],
    ids=["keys", "certificate", "serving.toml"],
)
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused_at_once(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "serving.toml"
    os.mkfifo(path)
    with pytest.raises(Exception, match=r"serving\.toml: expected a readable .*found.* a pipe, a socket or a device"):
        read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(Exception, match=r"serving\.toml: expected a readable .*found.* a folder"):
        read(path)


def test_keys_that_are_replaced_by_a_pipe_stay_as_they_were(tmp_path: Path) -> None:
    key = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # sha256 of foo
    path = tmp_path / "keys"
    path.write_text(f"infer {key}\n")
    keys = Keys(path)
    path.unlink()
    os.mkfifo(path)
    assert keys.scopes(b"foo") == {"infer"}
    with pytest.raises(StartFailed):
        Keys(path)


@pytest.mark.parametrize("text", ["نمی‌خواهم", "café au lait", "👩‍👧", "日本"])
def test_letters_that_languages_need_are_part_of_a_line(text: str) -> None:
    assert is_one_line(text)


@pytest.mark.parametrize("text", ["a\nb", "a\x0cb", "a\u2028b", "a\x1b[31m", "a\ud800"])
def test_line_breaks_and_control_characters_are_not(text: str) -> None:
    assert not is_one_line(text)


def test_a_text_file_is_replaced_with_its_permissions_and_a_new_one_is_for_all_to_read(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    replace_text(path, "first\n")
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o660)
    replace_text(path, "second\n")
    assert path.stat().st_mode & 0o777 == 0o660
    assert path.read_text() == "second\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file.txt"
    replace_text(path, "first\n")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_text(path, "second\n")
    assert path.read_text() == "first\n"
    assert list(tmp_path.iterdir()) == [path]
