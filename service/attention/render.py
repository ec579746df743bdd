"""Attention maps --> the answer of POST /explain, in the form that was asked for: JSON, a PNG, or an array."""

import io
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from pydantic_core import to_json

from aaserve.bundle.manifest import Manifest
from aaserve.bundle.model_input import shown_pixels
from aaserve.service.attention.heatmap import overlay
from aaserve.service.attention.selection import MEAN, AttentionSelection
from aaserve.service.errors import InvalidParameter

JSON, PNG, NPY = "application/json", "image/png", "application/x-npy"
MAX_ARRAY_BYTES = 4 * 2**20
_DIGITS = 6  # of a share; the average one of 32x32 positions is 0.001


class Position(BaseModel):
    """A point in what the model sees, as fractions of its width and height from the top left corner."""

    x: float = Field(ge=0, le=1)
    y: float = Field(ge=0, le=1)


class HeadMap(BaseModel):
    """Where one head looks."""

    head: int | Literal["mean"]
    attention: list[list[float]] = Field(description="Share of each cell, row by row; all of them add up to 1.")


class LayerMaps(BaseModel):
    """Where the heads of one layer look, in cells that cover the picture evenly."""

    layer: str
    grid: tuple[int, int] = Field(description="Rows and columns.")
    query: tuple[int, int] | None = Field(description="Row and column of the cell that looks; null for the average.")
    heads: list[HeadMap]


class Explanation(BaseModel):
    """Where the network looks in a picture, layer by layer in the order in which they run."""

    model: str
    version: str
    position: Position | None = Field(description="The point that was asked about; null for the average over all.")
    layers: list[LayerMaps]


Maps = Mapping[str, NDArray[np.floating]]  # layer --> (heads, queries, keys)
# From the manifest, the selection, the model's input row, and the attention maps.
Form = Callable[[Manifest, AttentionSelection, NDArray[Any], Maps], bytes]


def for_form(look: AttentionSelection, media_type: str) -> AttentionSelection:
    """What is shown of `look` in this form: one map in a picture, one layer in an array, the last where none is named.

    Raises:
        InvalidParameter: an array of one position, or one larger than MAX_ARRAY_BYTES.
    """
    if media_type == JSON:
        return look
    last = look.layers[-1]
    if media_type == PNG:
        return AttentionSelection((last,), MEAN if look.head is None else look.head, look.position)
    if look.position is not None:
        raise InvalidParameter(f"position: {NPY} has them all, leave it out")
    size = 4 * len(look.heads(last)) * (last.grid[0] * last.grid[1]) ** 2
    if size > MAX_ARRAY_BYTES:
        raise InvalidParameter(f"head: {size} bytes are too many (at most {MAX_ARRAY_BYTES}); ask for fewer heads")
    return AttentionSelection((last,), look.head, None)


def as_json(manifest: Manifest, look: AttentionSelection, row: NDArray[Any], maps: Maps) -> bytes:
    """An `Explanation`, written without being checked first: it is ours."""
    layers = []
    for layer in look.layers:
        shares = look.select(layer, maps[layer.layer]).astype(np.float64).round(_DIGITS).tolist()
        heads = [{"head": head, "attention": share} for head, share in zip(look.heads(layer), shares, strict=True)]
        layers.append({"layer": layer.layer, "grid": layer.grid, "query": look.query(layer), "heads": heads})
    position = dict(zip("xy", look.position, strict=True)) if look.position else None
    return to_json({"model": manifest.name, "version": manifest.version, "position": position, "layers": layers})


def as_overlay(manifest: Manifest, look: AttentionSelection, row: NDArray[Any], maps: Maps) -> bytes:
    """The picture as the model sees it, enlarged, under one map."""
    [layer] = look.layers
    [share] = look.select(layer, maps[layer.layer])
    return overlay(shown_pixels(row, manifest), share, look.query(layer))


def as_array(manifest: Manifest, look: AttentionSelection, row: NDArray[Any], maps: Maps) -> bytes:
    """A .npy file, little-endian float32 (heads, rows, columns, rows, columns): whose, then where they look."""
    [layer] = look.layers
    shares = look.of_heads(maps[layer.layer])  # (heads, queries, keys)
    file = io.BytesIO()
    np.save(file, shares.reshape(len(shares), *layer.grid, *layer.grid).astype("<f4"))
    return file.getvalue()


FORMS: dict[str, Form] = {JSON: as_json, PNG: as_overlay, NPY: as_array}  # the first is the default
