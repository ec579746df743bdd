"""The parsers that we own, fed by Hypothesis: for any bytes, they raise only documented errors.

`make fuzz SECONDS=600` runs it for that long; what it finds becomes an @example here.
"""

import asyncio
import json
import os
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from aaserve.bundle.bundle import MANIFEST_FILE, sha256_of
from aaserve.bundle.errors import BundleError, ImageError
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.pictures.containers.exif import orientation_of
from aaserve.bundle.pictures.containers.jpeg import check_scans
from aaserve.bundle.pictures.containers.tiff import read_layout
from aaserve.bundle.pictures.decoding import decode
from aaserve.bundle.references.references import read_references
from aaserve.service.errors import InvalidRequest, ServiceError
from aaserve.service.http.body.compression import coding_of
from aaserve.service.http.body.encoded_text import from_base64
from aaserve.service.http.body.multipart import read_form
from aaserve.service.http.oip.infer_request import read_infer_request
from aaserve.service.http.oip.view import View
from tests.encoders import bmp, gif, jpeg_segment, png, png_chunk, tiff, tiff_file, with_segment
from tests.helpers import REPOSITORY, encode, noise
from tests.hostile.bombs import tiff_of_one_tile
from tests.service.http.body.test_compression import inflated

EXAMPLES = int(os.environ.get("AASERVE_FUZZ_EXAMPLES", "150"))
MANIFEST_TEXT = (REPOSITORY / "aa-cifar100" / "1" / MANIFEST_FILE).read_text()
MANIFEST = Manifest.model_validate_json(MANIFEST_TEXT)
VIEWS = [View(MANIFEST, pictures=False), View(MANIFEST, pictures=True)]

thoroughly = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None if EXAMPLES == 150 else settings.default.database,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
sizes = st.sampled_from([0, 1, 2, 3, 32, 33, 3072, 2**31, 2**32, 2**63, 2**64, -1]) | st.integers()


def often(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What makes sense, mostly, so that the parser is not left at its first line."""
    return st.one_of(strategy, strategy, strategy, anything)


parameters = often(
    st.dictionaries(
        st.sampled_from(["binary_data_size", "binary_data", "binary_data_output", "classification", "timeout", "x"]),
        often(sizes | st.booleans()),
    )
)
tensor = st.fixed_dictionaries(
    {
        "name": often(st.just("image")),
        "shape": often(st.lists(sizes, max_size=5) | st.sampled_from([[1, 32, 32, 3], [1], [2]])),
        "datatype": often(st.sampled_from(["UINT8", "FP32", "BYTES"])),
    },
    optional={"parameters": parameters, "data": often(st.lists(often(sizes | st.text()), max_size=4))},
)
infer_json = often(
    st.fixed_dictionaries(
        {"inputs": often(st.lists(often(tensor), min_size=1, max_size=1))},
        optional={
            "id": anything,
            "parameters": parameters,
            "outputs": often(
                st.lists(
                    often(
                        st.fixed_dictionaries(
                            {"name": often(st.sampled_from(["logits", "scores"]))}, optional={"parameters": parameters}
                        )
                    ),
                    max_size=3,
                )
            ),
        },
    )
)


@contextmanager
def documented(*kinds: type[Exception]) -> Iterator[None]:
    """Only these errors, in one line, and none of them our own fault."""
    try:
        yield
    except kinds as error:
        if "\n" in str(error) or getattr(error, "status", 400) >= 500:
            raise AssertionError(f"no message for a client: {error}") from error


def infer_body(content: Any, tail: bytes, header: str | None) -> tuple[bytes, str | None]:
    """JSON, and what follows it."""
    text = json.dumps(content).encode()
    return text + tail, str(len(text)) if header == "right" else header


tails = (
    st.binary(max_size=40)
    | st.just(bytes(3072))
    | st.lists(st.binary(max_size=5)).map(lambda parts: b"".join(struct.pack("<I", len(part)) + part for part in parts))
)
bodies = st.builds(
    infer_body,
    infer_json,
    tails,
    st.sampled_from(["right", "right", "right", "0", "-1", "99999999999", "", "1" * 5000, "１", None]),
)


@thoroughly
@given(bodies | st.tuples(st.binary(max_size=200), st.text(max_size=3) | st.none()), st.sampled_from(VIEWS))
@example((b"[" * 20_000, None), VIEWS[0])
@example(
    (b'{"inputs":[{"name":"image","shape":[1,32,32,3],"datatype":"UINT8","data":[' + b"9" * 5000 + b"]}]}", None),
    VIEWS[0],
)
@example((b'{"inputs":[' + b'{"name":"image","shape":[2],"datatype":"BYTES"}' + b"]}\xff\xff\xff\xff", "58"), VIEWS[1])
def test_infer_bodies(body: tuple[bytes, str | None], view: View) -> None:
    with documented(ServiceError):
        request = read_infer_request(*body, view, max_rows=32)
        assert 1 <= len(request.rows) <= 32
        if view.pictures:
            assert all(isinstance(row, bytes) for row in request.rows)
        else:
            assert np.shape(request.rows)[1:] == view.input.shape
        assert request.outputs
        assert request.timeout is None or request.timeout > 0


@thoroughly
@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "GZIP ", "br", "gzip, gzip"]), st.integers(1, 64))
def test_compressed_bodies(body: bytes, encoding: str, max_bytes: int) -> None:
    with documented(ServiceError):
        assert len(inflated(body, coding_of(encoding) or "", max_bytes=max_bytes)) <= max_bytes


form_pieces = st.sampled_from(
    [
        b"--x\r\n",
        b"--x",
        b"--x--\r\n",
        b"\r\n",
        b'Content-Disposition: form-data; name="image"',
        b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n',
        b'Content-Disposition: form-data; name="top_k"\r\n\r\n2\r\n',
        b"Content-Transfer-Encoding: base64\r\n",
        b"\xff",
        b": ",
        b"x",
    ]
)


@thoroughly
@given(
    st.lists(form_pieces | st.binary(max_size=9), max_size=12),
    st.sampled_from(["x", "x", '"x"', "", "y", "x" * 300]),
    st.sampled_from(["", "; charset=utf-8", "; charset=punycode"]),
)
@example([b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n', b"1", b"\r\n--x--"], "x", "")
def test_forms(pieces: list[bytes], boundary: str, charset: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    content_type = f"multipart/form-data{charset}; boundary={boundary}"
    with documented(ServiceError):
        form = asyncio.run(read_form(content_type, body(), image="image", takes=("top_k",), max_images=2))
        assert len(form.images) <= 2
        assert set(form.fields) <= {"top_k"}


@thoroughly
@given(st.text(alphabet="ABCabc+/-_= \n%2", max_size=20) | st.text(max_size=12), st.sampled_from(["", "data:;base64,"]))
def test_base64(text: str, prefix: str) -> None:
    found = from_base64(prefix + text)
    assert isinstance(found, bytes | InvalidRequest)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [path, *(found for key, inner in items for found in paths_of(inner, (*path, key)))]


def replaced(path: tuple[Any, ...], new: Any) -> str:
    """The shipped manifest with one value replaced."""
    manifest = json.loads(MANIFEST_TEXT)
    if not path:
        return json.dumps(new)
    owner = manifest
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = new
    return json.dumps(manifest)


manifests = st.builds(
    replaced, st.sampled_from(paths_of(json.loads(MANIFEST_TEXT))), anything | sizes | st.lists(sizes, max_size=3)
)


@thoroughly
@given(manifests | st.text(max_size=100) | st.binary(max_size=100))
@example("[" * 20_000)
@example(replaced(("output", "shape"), [10**30]))
@example(replaced(("preprocessing", "std"), [1e-320, 1, 1]))
def test_manifests(text: str | bytes) -> None:
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError:
        return
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest  # what is served is what was read
    assert len(manifest.labels) == manifest.outputs[0].shape[0]
    assert 1 <= min(manifest.preprocessing.crop) <= max(manifest.preprocessing.crop) <= 4096
    assert "/" not in manifest.name
    assert not manifest.name.startswith(".")


@thoroughly
@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_references(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "references.json"
        path.write_bytes(content)
        with documented(BundleError):
            read_references(path)


def damaged(content: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    changed = bytearray(content)
    for position, value in changes:
        changed[position % len(changed)] = value
    return bytes(changed[: len(changed) - cut % len(changed)])


changes = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6)
tiffs = st.builds(damaged, st.just(tiff_of_one_tile(10, 64)), changes, st.just(0) | st.integers(0, 200))


@thoroughly
@given(tiffs | st.binary(max_size=100).map(lambda rest: b"MM\0+" + rest))
@example(b"II+\0\x08\0\0\0" + b"\xff" * 100)
def test_tiff_directories(content: bytes) -> None:
    with documented(ImageError):
        read_layout(content, max_pixels=10_000)


@thoroughly
@given(
    st.lists(
        st.sampled_from([b"\xff\xda", b"\xff\xd8", b"\xff\xd9", b"\xff", b"\0", b"\0\2", b"\xff\xe1\xff\xff", b"x"]),
        max_size=300,
    )
)
def test_jpeg_markers(pieces: list[bytes]) -> None:
    content = b"\xff\xd8" + b"".join(pieces)
    try:
        check_scans(content)
    except ImageError:
        assert content.count(b"\xda") > 100


def pictures() -> list[bytes]:
    """One or two small pictures of each format, with all that a reader of ours looks at."""
    small = noise(5, 7)
    turned = tiff_file(b"", {274: (3, [6])})
    half = small.convert("RGBA")
    half.putalpha(Image.linear_gradient("L").resize(half.size))
    frames = {"save_all": True, "append_images": [small.rotate(90)], "duration": 20}
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    before = png_chunk(b"PLTE", bytes(range(48))) + png_chunk(b"tRNS", bytes(9)) + png_chunk(b"eXIf", turned)
    return [
        png(np.arange(35).reshape(5, 7, 1) % 16, 4, 3, interlaced=True, before=before),
        png(np.arange(105).reshape(5, 7, 3) * 600, 16, 2, before=png_chunk(b"tRNS", bytes(6))),
        with_segment(encode(small, "JPEG", progressive=True), jpeg_segment(0xE1, b"Exif\0\0" + turned)),
        encode(small, "TIFF", compression="tiff_lzw"),
        tiff(np.arange(105).reshape(5, 7, 3) * 600, 16, 2, planar=True, compressed=True, predictor=2, order=">"),
        tiff(np.arange(70).reshape(5, 7, 2) * 900, 16, 1, tile=16, big=True, tags={338: (3, [1])}),
        gif((9, 9), (1, 1, 3, 2), bytes((0, 1, 2, 1, 2, 0)), colours, transparent=1, before=b"!\xfe\2ab\0"),
        encode(half, "WEBP", exif=turned),
        encode(half, "WEBP", lossless=True, **frames),
        bmp(b"\0\4\x0f\x0e\x0d\0\0\0\1\1\0\2\1\0\1\4\0\1", (4, 2), 8, compression=1, palette=colours),
        encode(small, "BMP"),
    ]


@thoroughly
@given(
    st.sampled_from(pictures()),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.just(0) | st.integers(0, 2000),
)
def test_pictures(content: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    with documented(ImageError):
        found = decode(damaged(content, changes, cut), max_pixels=10_000, background=(1, 2, 3), exif_orientation=True)
        assert found.mode == "RGB"
        assert 1 <= found.width * found.height <= 10_000


@thoroughly
@given(
    st.builds(damaged, st.just(tiff_file(b"", {274: (3, [6])})), changes, st.integers(0, 20)) | st.binary(max_size=60)
)
def test_exif_data(content: bytes) -> None:
    assert 1 <= orientation_of(content) <= 8


def checkpoint_readers() -> tuple[Callable[..., Any], type[Exception]]:
    pytest.importorskip("torch")
    from aaserve.export.errors import ExportError
    from aaserve.export.sources.checkpoint import read_checkpoint

    return read_checkpoint, ExportError


def safetensors(header: Any, tail: bytes, length: int | None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + tail


entry = st.fixed_dictionaries(
    {
        "dtype": often(st.sampled_from(["F32", "F16", "I64", "BOOL", "F8_E4M3", "U8"])),
        "shape": often(st.lists(sizes, max_size=3)),
        "data_offsets": often(st.lists(sizes, min_size=2, max_size=2) | st.sampled_from([[0, 4], [0, 8], [4, 8]])),
    }
)
headers = often(
    st.dictionaries(st.sampled_from(["a", "module.a", "b", ""]), often(entry), max_size=3).flatmap(
        lambda tensors: (
            st.just(tensors)
            | st.fixed_dictionaries(
                {
                    "__metadata__": often(
                        st.dictionaries(
                            st.sampled_from(["aaserve", "x"]), often(st.text(max_size=9) | st.just("[" * 20_000))
                        )
                    )
                }
            ).map(lambda extra: tensors | extra)
        )
    )
)
checkpoints = st.builds(
    safetensors,
    headers | st.binary(max_size=60),
    st.just(bytes(8)) | st.binary(max_size=40),
    st.none() | st.none() | sizes.filter(lambda size: 0 <= size < 2**64),
)
TENSOR = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@thoroughly
@given(checkpoints, st.sampled_from([".safetensors", ".safetensors", ".pt"]))
@example(safetensors(TENSOR, bytes(8), None), ".safetensors")
@example(safetensors({**TENSOR, "__metadata__": {"aaserve": "[" * 20_000}}, bytes(8), None), ".safetensors")
@example(safetensors({**TENSOR, "__metadata__": {"aaserve": "5"}}, bytes(8), None), ".safetensors")
@example(b"\x80\x02cos\nsystem\nX\x02\0\0\0lsq\0\x85R.", ".pt")
@example(b"\x80\x02Q.", ".pt")  # a persistent id of nothing: torch's unpickler raised IndexError
@example(b"", ".pt")
@example(b"PK\x03\x04" + bytes(50), ".pt")
def test_checkpoints(content: bytes, suffix: str) -> None:
    read_checkpoint, export_error = checkpoint_readers()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"checkpoint{suffix}"
        path.write_bytes(content)
        with documented(export_error):
            checkpoint = read_checkpoint(path)
            assert checkpoint.weights
            assert isinstance(checkpoint.metadata, dict)
            assert checkpoint.sha256 == sha256_of(content)
