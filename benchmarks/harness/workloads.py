"""What servers are compared on: a model, and pictures that are sent to it in rotation.

W1   a tiny network, PNGs of 32x32 pixels   what is left is the server's own work
W2   a tiny network, photographs of 100 kB  decoding
W3   AA-ResNet-50, the same photographs     computing
W4   a small AA-RetinaNet, the same photographs   detection; aaserve only
W1s, W2s   as W1 and W2, with the bundle that ships
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aaserve.bundle.bundle import open_bundle
from benchmarks.harness.pictures import photographs, small_pngs
from benchmarks.harness.random_bundles import SHIPPED, random_bundle

_tiny = partial(random_bundle, "tiny")


@dataclass(frozen=True)
class Workload:
    """`bundle` makes it where it is not there yet, which takes up to a minute."""

    name: str
    words: str
    bundle: Callable[[], Path]
    pictures: Callable[[], list[bytes]]
    media_type: str

    @property
    def task(self) -> str:
        return open_bundle(self.bundle()).manifest.task


WORKLOADS = {
    each.name: each
    for each in (
        Workload("W1", "tiny network, 32x32 PNG", _tiny, small_pngs, "image/png"),
        Workload("W2", "tiny network, 100 kB photograph", _tiny, photographs, "image/jpeg"),
        Workload(
            "W3",
            "AA-ResNet-50, 100 kB photograph",
            partial(random_bundle, "aa_resnet50"),
            photographs,
            "image/jpeg",
        ),
        Workload(
            "W4",
            "AA-RetinaNet, small, 100 kB photograph",
            partial(random_bundle, "retinanet_aa_small"),
            photographs,
            "image/jpeg",
        ),
        Workload("W1s", "shipped network, 32x32 PNG", lambda: SHIPPED, small_pngs, "image/png"),
        Workload("W2s", "shipped network, 100 kB photograph", lambda: SHIPPED, photographs, "image/jpeg"),
    )
}
