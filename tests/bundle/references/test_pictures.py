"""Pictures inside a bundle: what was put in comes out, and nothing else is taken for one."""

from pathlib import Path

import numpy as np
import pytest

from aaserve.bundle.bundle import Bundle, open_bundle, sha256_of, write_bundle
from aaserve.bundle.errors import BundleError
from aaserve.bundle.references.pictures import MOST, read_reference_pictures, stored_pictures
from tests.helpers import REPOSITORY, encode, noise

SMALL = REPOSITORY / "aa-cifar100" / "1"


def with_files(folder: Path, more: dict[str, bytes]) -> Bundle:
    """The small model in `folder`, with more files."""
    shipped = open_bundle(SMALL)
    files = {name: shipped.content(name) for name in shipped.manifest.files} | more
    sums = {name: sha256_of(content) for name, content in files.items()}
    return open_bundle(write_bundle(folder, shipped.manifest.model_copy(update={"files": sums}), files))


def test_pixels_come_back_as_they_were(tmp_path: Path) -> None:
    pictures = [np.asarray(noise(32, 32, seed)) for seed in range(10)]
    bundle = with_files(tmp_path, stored_pictures(pictures))
    found = read_reference_pictures(bundle)
    assert len(found) == MOST == 8
    for pixels, expected in zip(found, pictures, strict=False):
        np.testing.assert_array_equal(pixels, expected)


def test_a_bundle_without_pictures_has_none() -> None:
    assert read_reference_pictures(open_bundle(SMALL)) == []


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (encode(noise(32, 31), "PNG"), "expected 32x32 pixels, found 31x32"),
        (encode(noise(33, 32), "PNG"), "expected a picture of 32x32 pixels, found: "),
        (b"no picture", "expected a picture of 32x32 pixels, found: not a JPEG"),
    ],
)
def test_what_is_no_such_picture_is_refused_in_one_line(tmp_path: Path, content: bytes, found: str) -> None:
    bundle = with_files(tmp_path, {"reference-1.png": content})
    with pytest.raises(BundleError, match=found) as refused:
        read_reference_pictures(bundle)
    assert str(refused.value).startswith(f"{bundle.folder / 'reference-1.png'}: ")


@pytest.mark.parametrize("name", ["reference-9.png", "reference-1.png.py", "other.png"])
def test_no_other_file_belongs_to_a_bundle(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"expected the files model\.onnx and references\.json"):
        with_files(tmp_path, {name: b""})
