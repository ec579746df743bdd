"""python -m benchmarks.json_bodies --output FILE

What JSON costs: CPU time of the thread that works on it. A parser holds the interpreter lock all that time; the service
gives it away between pieces. Parsers that are not installed here are left out, and the service needs none of them:
pip install --target FOLDER orjson msgspec, and FOLDER in PYTHONPATH.

The bodies are of 10 MB: numbers of a tensor, base64 of a picture, and small arrays that mean nothing. The answer has
32 rows of 21,841 classes.
"""

import argparse
import base64
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from aaserve.service.errors import InvalidRequest
from aaserve.service.http.answers import json_array
from aaserve.service.http.body.encoded_text import from_base64
from aaserve.service.http.body.json_body import parse_json
from aaserve.service.http.body.long_values import PIECE
from aaserve.service.http.oip import tensor_data
from aaserve.service.http.oip.view import TensorSpec
from benchmarks.circumstances import write_result

ROUNDS = 5
SHAPE = (160, 3, 32, 32)
SPEC = TensorSpec("data", "FP32", SHAPE[1:])
Parse = Callable[[bytes], Any]


def cpu_ms(work: Callable[[], Any]) -> float:
    """Milliseconds of CPU of the fastest round."""

    def measured() -> float:
        started = time.thread_time()
        work()
        return time.thread_time() - started

    return round(1000 * min(measured() for _ in range(ROUNDS)), 3)


def coders() -> tuple[dict[str, Parse], dict[str, Callable[[Any], bytes]]]:
    """Everything that parses and writes JSON here."""
    parsers: dict[str, Parse] = {"json": json.loads, "pydantic-core": from_json}
    writers: dict[str, Callable[[Any], bytes]] = {
        "json": lambda value: json.dumps(value).encode(),
        "pydantic-core": to_json,
    }
    for name, module, parse, write in (
        ("orjson", "orjson", "loads", "dumps"),
        ("msgspec", "msgspec.json", "decode", "encode"),
    ):
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        parsers[name], writers[name] = getattr(found, parse), getattr(found, write)
    return parsers, writers


def read(body: bytes) -> object:
    """As the service reads a body."""
    try:
        content = parse_json(body, expected="an object", image_hint="", max_items=32)
        if "image" in content:
            return from_base64(content["image"])
        return tensor_data.from_json(content["data"], SPEC, SHAPE)
    except InvalidRequest as error:
        return error


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--output", type=Path, required=True)
    options = arguments.parse_args()
    random = np.random.default_rng(0)
    bodies = {
        "numbers": json.dumps({"data": random.standard_normal(SHAPE).ravel().tolist()}).encode(),
        "base64": json.dumps({"image": base64.b64encode(random.bytes(7_500_000)).decode()}).encode(),
        "small arrays": b'{"x":[' + b"[]," * 3_300_000 + b"0]}",
    }
    answer = random.standard_normal(32 * 21_841).astype(np.float32).tolist()
    parsers, writers = coders()
    piece = bodies["numbers"][len('{"data": ') :][:PIECE]
    piece = piece[: piece.rindex(b",")] + b"]"
    measured: dict[str, object] = {
        "body_bytes": {name: len(body) for name, body in bodies.items()},
        "cpu_ms": {
            name: {parser: cpu_ms(lambda: parse(body)) for parser, parse in parsers.items()}  # noqa: B023
            | {"service": cpu_ms(lambda: read(body))}  # noqa: B023
            for name, body in bodies.items()
        },
        "piece_of_numbers_cpu_ms": {parser: cpu_ms(lambda: parse(piece)) for parser, parse in parsers.items()},  # noqa: B023
        "answer_cpu_ms": {writer: cpu_ms(lambda: write(answer)) for writer, write in writers.items()}  # noqa: B023
        | {"service": cpu_ms(lambda: json_array(answer))},
    }
    write_result(options.output, measured, "pydantic-core", "numpy")


if __name__ == "__main__":
    main()
