"""Bodies of requests, fed by Hypothesis: for any bytes, our parsers raise only documented errors.

`make fuzz SECONDS=600` runs it for that long; what it finds becomes an @example here.
"""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from aaserve.service.errors import InvalidRequest, ServiceError
from aaserve.service.http.body.compression import coding_of
from aaserve.service.http.body.encoded_text import from_base64
from aaserve.service.http.body.multipart import read_form
from aaserve.service.http.oip.infer_request import read_infer_request
from aaserve.service.http.oip.view import View
from tests.hostile.fuzzing import MANIFEST, anything, documented, often, sizes, thoroughly
from tests.service.http.body.test_compression import inflated

VIEWS = [View(MANIFEST, pictures=False), View(MANIFEST, pictures=True)]

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
