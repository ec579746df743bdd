"""The probe is the same everywhere, or no stored answer to it means anything."""

from aaserve.bundle.bundle import sha256_of
from aaserve.bundle.references.probe import probe_pixels


def test_the_probe_never_changes() -> None:
    pixels = probe_pixels((32, 40))
    assert pixels.shape == (32, 40, 3)
    assert sha256_of(pixels.tobytes()) == "06502328cb611df78a9cf3713a1d1c0f46638f05e2516fb1716ffb177e1e3091"
    assert 120 < pixels.mean() < 135
