"""Files of bundles and checkpoints, fed by Hypothesis: for any bytes, our parsers raise only documented errors.

`make fuzz SECONDS=600` runs it for that long; what it finds becomes an @example here.
"""

import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from aaserve.bundle.bundle import sha256_of
from aaserve.bundle.errors import BundleError
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.references.references import read_references
from tests.hostile.fuzzing import MANIFEST_TEXT, anything, documented, often, sizes, thoroughly


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
