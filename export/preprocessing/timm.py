"""`pretrained_cfg` of timm (in config.json) and its checkpoints --> the fields of `Preprocessing` that it defines.

Like the evaluation of timm.data.create_transform in timm 1.0.31 (timm/data/transforms_factory.py).
"""

import math
from collections.abc import Mapping
from typing import Any

from aaserve.export.errors import ExportError


def from_timm(config: Mapping[str, Any]) -> dict[str, object]:
    """The fields that `config` defines; it never defines EXIF orientation and transparency.

    Raises:
        ExportError: a crop mode that the service does not have.
    """
    config = {name: value for name, value in config.items() if value is not None}
    fields: dict[str, object] = {
        "colour": "RGB",
        **{name: tuple(config[name]) for name in ("mean", "std") if name in config},
        **({"interpolation": config["interpolation"]} if "interpolation" in config else {}),
    }
    if "input_size" not in config:
        return fields
    channels, height, width = config["input_size"]
    if channels != 3:
        raise ExportError(f"expected an input_size of 3 channels, found {channels}")
    fields["crop"] = (height, width)
    if share := config.get("crop_pct"):
        resize = math.floor(height / share), math.floor(width / share)
        mode = config.get("crop_mode") or "center"
        if mode == "squash":
            fields["resize"] = resize
        elif mode == "center" and height == width:
            fields["resize"] = resize[0]
        else:
            raise ExportError(f"expected crop_mode squash, or center of a square, found {mode} of {height}x{width}")
    return fields
