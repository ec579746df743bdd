"""What a folder of pictures is taken to hold, and what is said of the rest."""

import os
from pathlib import Path

import pytest

from aaserve.bundle.pictures.picture_files import find_pictures, told
from tests.helpers import encode, noise

PNG = encode(noise(8, 8), "PNG")


def write(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def names(paths: tuple[Path, ...], folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in paths]


def test_content_decides_what_is_a_picture_and_the_rest_is_counted(tmp_path: Path) -> None:
    write(tmp_path, {"a.jfif": PNG, "b": PNG, "c.png": PNG})
    write(tmp_path, {"d.txt": b"notes", "e.txt": b"BMW, Opel", "f": b"\0\0", "g.heic": b"\0\0\0\x18ftypheic"})
    found = find_pictures(tmp_path)
    assert names(found.pictures, tmp_path) == ["a.jfif", "b", "c.png"]
    assert told(found.left_out) == "left out: 2 .txt, 1 without suffix, 1 .heic"


def test_hidden_and_system_files_and_folders_are_skipped_with_a_count(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": PNG, "Thumbs.db": b"", ".DS_Store": b"", "desktop.ini": b"", "._a.png": PNG})
    write(tmp_path, {f"{name}/a.png": PNG for name in (".cache", "__MACOSX", "@eaDir", "lost+found")})
    for deeper in (False, True):
        found = find_pictures(tmp_path, deeper=deeper)
        assert names(found.pictures, tmp_path) == ["a.png"]
        assert not found.folders
        assert told(found.left_out) == "left out: 8 hidden or system"


def test_folders_below_are_named_or_looked_into(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": PNG, "below/b.png": PNG, "below/deep/c.png": PNG})
    found = find_pictures(tmp_path)
    assert (names(found.pictures, tmp_path), names(found.folders, tmp_path)) == (["a.png"], ["below"])
    found = find_pictures(tmp_path, deeper=True)
    assert names(found.pictures, tmp_path) == ["a.png", "below/b.png", "below/deep/c.png"]


def test_links_to_pictures_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    write(tmp_path, {"elsewhere/a.png": PNG, "here/b.png": PNG})
    here = tmp_path / "here"
    (here / "a.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (here / "circle").symlink_to(here)
    found = find_pictures(here, deeper=True)
    assert names(found.pictures, here) == ["a.png", "b.png"]
    assert told(found.left_out) == "left out: 1 linked folders"


def test_a_pipe_is_left_out_and_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": PNG})
    os.mkfifo(tmp_path / "b.png")
    assert told(find_pictures(tmp_path).left_out) == "left out: 1 devices, pipes or sockets"


NO_PICTURES = {
    "an empty file": b"",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
    "a web page": b"\n<!DOCTYPE html><html>",
    "text: 'QueuedRequest not found'": b"QueuedRequest not found",
    "a HEIC, AVIF or MP4 file": b"\0\0\0\x18ftypheic",
    "something else": bytes(range(256)),
}


@pytest.mark.parametrize(("kind", "content"), NO_PICTURES.items(), ids=NO_PICTURES.keys())
def test_a_file_named_as_a_picture_that_is_none_is_refused_with_what_it_is(
    kind: str, content: bytes, tmp_path: Path
) -> None:
    write(tmp_path, {"a.png": PNG, "b.jpg": content, "c.JPEG": content})
    with pytest.raises(ValueError, match=r"b\.jpg: expected a picture, as its name says, found ") as caught:
        find_pictures(tmp_path)
    assert f"found {kind}" in str(caught.value)
    assert f"(and 1 more such files in {tmp_path})" in str(caught.value)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: expected a readable folder, found: No such file or directory"):
        find_pictures(tmp_path / "nowhere")
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"a\.png: expected a picture.*found a link to a file that does not exist"):
        find_pictures(tmp_path)
