"""A directory of a TIFF file; EXIF data have the same form (TIFF 6.0, section 2).

Only requested tags are read, and values are copied only on request.
"""

import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAX_ENTRIES = 2**16  # the limit of a directory outside BigTIFF
_SHORT, _LONG, _LONG8 = 3, 4, 16
_NUMBERS = {_SHORT: "u2", _LONG: "u4", _LONG8: "u8"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}  # bytes, by type
_ENDIAN: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}


class Entry(NamedTuple):
    kind: int
    length: int  # number of values
    value: bytes  # the values, or their offset


class Directory(NamedTuple):
    """The first directory of `content`, with the requested entries."""

    content: bytes
    order: str  # "<" or ">"
    entries: dict[int, Entry]

    def values(self, tag: int) -> NDArray[Any]:
        """The values of a tag; empty if it is absent.

        Raises:
            ValueError: not unsigned integers of 16 bits or more, or outside the file.
        """
        if tag not in self.entries:
            return np.empty(0, np.int64)
        kind = self.entries[tag].kind
        if kind not in _NUMBERS:
            raise ValueError(f"tag {tag} has values of type {kind}")
        return np.frombuffer(self._bytes(tag), self.order + _NUMBERS[kind])

    def number(self, tag: int, default: int) -> int:
        """The first value of a tag; raises as `values`."""
        found = self.values(tag)
        return int(found[0]) if len(found) else default

    def written(self, new: Mapping[int, Sequence[int]], *, without: Collection[int] = ()) -> bytes:
        """A TIFF of the same bytes whose only directory has these entries, except those of `without`, plus `new`
        values.

        It is never a BigTIFF, because Pillow does not read big-endian ones.
        """
        pieces = [bytes(len(self.content) % 2)]
        place = len(self.content) + len(pieces[0])
        lines = []
        for tag in sorted((self.entries.keys() | new) - set(without)):
            if tag in new or self.entries[tag].kind in _NUMBERS:
                values = np.asarray(new[tag] if tag in new else self.values(tag), np.uint64)
                kind = _SHORT if values.max() < 2**16 else _LONG
                length, packed = len(values), values.astype(self.order + _NUMBERS[kind]).tobytes()
            else:
                (kind, length, _), packed = self.entries[tag], self._bytes(tag)
            if len(packed) > 4:
                pieces.append(packed.ljust(len(packed) + len(packed) % 2, b"\0"))
                place, packed = place + len(pieces[-1]), struct.pack(self.order + "L", place)
            lines.append(struct.pack(self.order + "HHL", tag, kind, length) + packed.ljust(4, b"\0"))
        head = (b"II*\0" if self.order == "<" else b"MM\0*") + struct.pack(self.order + "L", place)
        directory = [struct.pack(self.order + "H", len(lines)), *lines, bytes(4)]
        return b"".join([head, memoryview(self.content)[len(head) :], *pieces, *directory])

    def _bytes(self, tag: int) -> bytes:
        kind, length, value = self.entries[tag]
        size = length * _SIZES.get(kind, len(self.content) + 1)
        if size <= len(value):
            return value[:size]
        start = int.from_bytes(value, _ENDIAN[self.order])
        if start + size > len(self.content):
            raise ValueError(f"the values of tag {tag} lie outside of the file")
        return self.content[start : start + size]


def read_directory(content: bytes, wanted: Collection[int]) -> Directory:
    """Read the first directory.

    Raises:
        ValueError: too many entries, or a requested tag that is repeated or has no value, so that readers may differ.
        struct.error: it lies outside the file.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        raise ValueError("no byte order")
    big = content[2:4] in (b"+\0", b"\0+")
    head, entry, number = (
        struct.Struct(order + form) for form in (("8xQ", "HHQ8s", "Q") if big else ("4xL", "HHL4s", "H"))
    )
    (start,) = head.unpack_from(content)
    (count,) = number.unpack_from(content, start)
    if count > _MAX_ENTRIES:
        raise ValueError(f"{count} entries")
    found: dict[int, Entry] = {}
    for index in range(count):
        tag, kind, length, value = entry.unpack_from(content, start + number.size + index * entry.size)
        if tag not in wanted:
            continue
        if tag in found or not length:
            raise ValueError("a tag that its readers may understand differently")
        found[tag] = Entry(kind, length, value)
    return Directory(content, order, found)
