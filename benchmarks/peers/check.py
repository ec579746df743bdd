"""python -m benchmarks.peers.check [NAME…] [--bundle DIR] [--read-with {pillow,bundle}]

Does each peer (all of them by default) start here and see in the examples what the bundle sees? Installs what is not
installed yet, which takes minutes and gigabytes for some.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

import aaserve.bundle.telemetry  # noqa: F401  (before onnxruntime)
from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.model_input import read_input
from benchmarks.circumstances import ROOT
from benchmarks.peers.catalogue import PEERS, Peer, StartFailed
from benchmarks.peers.servers.reading import READERS

import onnxruntime  # isort: skip

EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
SHIPPED = ROOT / "model_repository" / "aa-cifar100" / "1"


def expected_top_1(folder: Path, pictures: Iterable[Path]) -> list[int]:
    """The bundle's own preprocessing and ONNX Runtime, without any server."""
    opened = open_bundle(folder)
    manifest = opened.manifest
    session = onnxruntime.InferenceSession(opened.model_path, providers=["CPUExecutionProvider"])
    rows = [read_input(picture.read_bytes(), manifest, max_pixels=50_000_000) for picture in pictures]
    logits = [session.run([manifest.outputs[0].name], {manifest.input.name: row[np.newaxis]})[0] for row in rows]
    return [int(one.argmax()) for one in logits]


def found_top_1(peer: Peer, folder: Path, pictures: Iterable[Path]) -> list[int]:
    """Over HTTP.

    Raises:
        StartFailed, OSError: it did not start, or did not answer.
    """
    with peer.serve(folder) as served:
        return [served.top_1(served.ask(picture.read_bytes(), "image/jpeg")) for picture in pictures]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.check", description=__doc__.splitlines()[2])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)} (default: all)")
    parser.add_argument("--bundle", type=Path, default=SHIPPED, help="folder NAME/VERSION (default: the shipped one)")
    parser.add_argument("--read-with", choices=READERS, default="pillow", help="how they read (default: pillow)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    expected = expected_top_1(arguments.bundle, EXAMPLES)
    failed = False
    for name in arguments.names or PEERS:
        peer = replace(PEERS[name], reader=arguments.read_with)
        try:
            found = found_top_1(peer, arguments.bundle, EXAMPLES)
        except (StartFailed, OSError) as error:
            print(f"{name} {peer.version}: {error}")
            failed = True
            continue
        words = "as expected" if found == expected else f"expected {expected}"
        print(f"{name} {peer.version}: top-1 {found}, {words}", flush=True)
        failed |= found != expected
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
