"""python -m benchmarks.random_bundles NETWORK…

Bundles of networks that nobody trained, for what they cost: weights of a seed, exported like any other into build/.
They answer several classes, so that servers that answer alike can be told from servers that see another picture.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import pictures
from benchmarks.circumstances import ROOT
from bundle.bundle import open_bundle
from bundle.preprocessing import Preprocessing, preprocess

FOLDER = ROOT / "build" / "benchmarks"
SHIPPED = ROOT / "model_repository" / "aa-cifar100" / "1"
SOURCES = ("bundle", "export", "models")
MAX_PIXELS = 50_000_000


def random_bundle(network: str) -> Path:
    """The folder NAME/VERSION in a repository of its own, made if this source has not made it yet (needs torch)."""
    digest = hashlib.sha256()
    for path in [Path(__file__), Path(pictures.__file__), *(path for name in SOURCES for path in sorted((ROOT / name).glob("*.py")))]:
        digest.update(path.read_bytes())
    folder = FOLDER / digest.hexdigest()[:12] / network / network.replace("_", "-") / "1"
    if not folder.exists():
        # In a process of its own: torch and its threads have no place in one that measures.
        command = [sys.executable, "-m", "benchmarks.random_bundles", network, "--folder", str(folder)]
        if subprocess.run(command, cwd=ROOT).returncode:
            raise SystemExit(f"error: could not make the bundle of {network}")
    return folder


def _export(network_name: str, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from export.exporter import export
    from export.labels import read_labels
    from export.presets import read_preprocessing
    from export.request import Request
    from models import create_model

    torch.manual_seed(0)
    network = create_model(network_name)
    if network.image_size == (32, 32):
        shipped = open_bundle(SHIPPED).manifest
        preprocessing, labels = shipped.preprocessing, shipped.labels
    else:
        preprocessing, labels = read_preprocessing("imagenet"), read_labels("imagenet-1k")
    _settle(network, preprocessing)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "random.safetensors"
        save_file(network.state_dict(), checkpoint)
        export(
            Request(
                checkpoint=checkpoint,
                name=folder.parent.name,
                version=folder.name,
                repository=folder.parent.parent,
                command=f"python -m benchmarks.random_bundles {network_name}",
                architecture=network_name,
                labels=tuple(labels),
                preprocessing=preprocessing,
                max_batch_size=8,
            ),
            lambda step: print(f"{network_name}: {step.splitlines()[0][:100]}", flush=True),
        )


def _settle(network, preprocessing: Preprocessing) -> None:  # type: ignore[no-untyped-def]
    """Batch norms take their statistics from a few pictures, and the head forgets what all of these have in common.

    Without that, random weights answer the same class whatever they see.
    """
    import torch
    from torch import nn

    files = [*pictures.photographs(), *pictures.small_pngs()]
    rows = torch.stack([torch.from_numpy(preprocess(one, preprocessing, max_pixels=MAX_PIXELS)) for one in files])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # averages, from the first batch on
            module.reset_running_stats()
    heads = [module for module in network.modules() if isinstance(module, nn.Linear)]
    with torch.inference_mode():
        network.train()(rows)
        logits = network.eval()(rows)  # (pictures, classes)
    with torch.no_grad():
        heads[-1].bias -= logits.mean(dim=0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_bundles", description=__doc__.splitlines()[2])
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="as python -m models lists them")
    parser.add_argument("--folder", type=Path, help="NAME/VERSION to write a single one into (default: build/…)")
    arguments = parser.parse_args()
    for network in arguments.networks:
        if arguments.folder:
            _export(network, arguments.folder)
        else:
            print(random_bundle(network))
    return 0


if __name__ == "__main__":
    sys.exit(main())
