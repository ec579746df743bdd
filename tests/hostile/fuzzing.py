"""What the tests that feed our parsers by Hypothesis share: how many examples, values of JSON, damaged files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from aaserve.bundle.bundle import MANIFEST_FILE
from aaserve.bundle.manifest import Manifest
from tests.helpers import REPOSITORY

EXAMPLES = int(os.environ.get("AASERVE_FUZZ_EXAMPLES", "150"))
MANIFEST_TEXT = (REPOSITORY / "aa-cifar100" / "1" / MANIFEST_FILE).read_text()
MANIFEST = Manifest.model_validate_json(MANIFEST_TEXT)

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


@contextmanager
def documented(*kinds: type[Exception]) -> Iterator[None]:
    """Only these errors, in one line, and none of them our own fault."""
    try:
        yield
    except kinds as error:
        if "\n" in str(error) or getattr(error, "status", 400) >= 500:
            raise AssertionError(f"no message for a client: {error}") from error


def damaged(content: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    changed = bytearray(content)
    for position, value in changes:
        changed[position % len(changed)] = value
    return bytes(changed[: len(changed) - cut % len(changed)])


changes = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6)
