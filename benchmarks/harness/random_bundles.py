"""python -m benchmarks.harness.random_bundles [--precision P] NETWORK…      tiny, or what python -m models lists

Bundles of networks that nobody trained, for what they cost: weights of a seed, exported like any other into build/.
They answer several classes, so that servers that answer alike can be told from servers that see another picture.
"""

import argparse
import hashlib
import io
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.manifest import Precision
from aaserve.bundle.preprocessing import Preprocessing, normalise, preprocess
from aaserve.bundle.references.probe import probe_pixels
from benchmarks.harness import pictures
from benchmarks.harness.circumstances import ROOT

FOLDER = ROOT / "build" / "benchmarks"
SHIPPED = ROOT / "tests" / "repository" / "aa-cifar100" / "1"  # alone in its repository: it is asked without a name
SOURCES = ("bundle", "export", "models")
MAX_PIXELS = 50_000_000
LOGIT, RIDGE = 3.0, 1e-1  # of the class that a picture is to have; shrinks the fit, so that it bears other decoders
CANDIDATES, LEAST_SCORE = 1000, 0.05  # of a detector: so many boxes of a picture have at least this score
OBJECTS = 20  # and so many, before suppression, at least 0.5
SOFTER = 0.3  # batch norms times this: blocks that change their input little, as in trained networks, bear int8
# Half a millisecond a picture on one core of 2026: the next larger one that has a name takes twice as long, and with
# the next smaller one nothing but HTTP would be measured.
TINY = {"architecture": "aa_wide_resnet10_1", "options": {"augmented_stages": (2, 3)}}


def random_bundle(network: str, precision: str = "fp32") -> Path:
    """The folder NAME/VERSION in a repository of its own, made if this source has not made it yet (needs torch)."""
    digest = hashlib.sha256()
    for path in [
        Path(__file__),
        Path(pictures.__file__),
        *(path for name in SOURCES for path in sorted((ROOT / name).rglob("*.py"))),
    ]:
        digest.update(path.read_bytes())
    repository = network if precision == "fp32" else f"{network}-{precision}"
    folder = FOLDER / digest.hexdigest()[:12] / repository / network.replace("_", "-") / "1"
    if not folder.exists():
        # In a process of its own: torch and its threads have no place in one that measures.
        command = [sys.executable, "-m", "benchmarks.harness.random_bundles", network, "--folder", str(folder)]
        command += ["--precision", precision]
        if subprocess.run(command, cwd=ROOT).returncode:
            raise SystemExit(f"error: could not make the bundle of {network}")
    return folder


def described_network(name: str) -> dict[str, Any]:
    """Architecture and options of `models.create_model`."""
    return TINY if name == "tiny" else {"architecture": name, "options": {}}


def _export(network_name: str, folder: Path, precision: Precision) -> None:
    import torch
    from safetensors.torch import save_file

    from aaserve.export.exporter import export
    from aaserve.export.preprocessing.presets import PRESETS
    from aaserve.export.request import Request
    from aaserve.export.sources.checkpoint import METADATA_KEY
    from aaserve.export.sources.labels import read_labels
    from aaserve.models import create_model
    from aaserve.models.networks.retinanet.network import RetinaNet

    torch.manual_seed(0)
    described = described_network(network_name)
    network = create_model(described["architecture"], **described["options"])
    if network.image_size == (32, 32):
        shipped = open_bundle(SHIPPED).manifest
        preprocessing, labels = shipped.preprocessing, shipped.labels
    elif isinstance(network, RetinaNet):
        letterbox = {"fit": "letterbox", "resize": None, "crop": network.image_size, "background": (114, 114, 114)}
        preprocessing = PRESETS["imagenet"].model_copy(update=letterbox)
        labels = tuple(f"class {number}" for number in range(network.num_classes))
    else:
        preprocessing, labels = PRESETS["imagenet"], read_labels("imagenet-1k")
    _settle(network, preprocessing)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "random.safetensors"
        for number, picture in enumerate(pictures.photographs() if precision != "fp32" else ()):
            upright = Image.open(io.BytesIO(picture))
            for turn in range(0, 360, 90):  # half of them calibrate
                upright.rotate(turn, expand=True).save(Path(scratch) / f"{number}-{turn}.png")
        save_file(network.state_dict(), checkpoint, {METADATA_KEY: json.dumps({"recipe": {"network": described}})})
        export(
            Request(
                checkpoint=checkpoint,
                name=folder.parent.name,
                version=folder.name,
                repository=folder.parent.parent,
                command=f"python -m benchmarks.harness.random_bundles {network_name}",
                labels=tuple(labels),
                preprocessing=preprocessing.model_dump(),
                max_batch_size=8,
                precision=precision,
                calibration=None if precision == "fp32" else Path(scratch),
                allowed_drop=100.0,  # there is nothing to lose
            ),
            lambda step: print(f"{network_name}: {step.splitlines()[0][:100]}", flush=True),
        )


def _settle(network, preprocessing: Preprocessing) -> None:  # type: ignore[no-untyped-def]
    """Batch norms take their statistics from a few pictures, and the head is fitted to give each a class of its own.

    Random weights would answer the same class whatever they see, or classes that a last bit decides between.
    """
    import torch
    from torch import nn

    from aaserve.models.networks.retinanet.network import RetinaNet

    views = [pictures.photographs(), pictures.small_pngs()]  # of the same things, in the same order
    files = [file for view in views for file in view]
    rows = torch.stack([torch.from_numpy(preprocess(one, preprocessing, max_pixels=MAX_PIXELS)) for one in files])
    # Noise counts as much as pictures: unlike them it would saturate the attention of every layer, and rounding errors
    # would grow until two runtimes answer the probe differently.
    probe = torch.from_numpy(normalise(probe_pixels(preprocessing.crop), preprocessing))
    settling = torch.cat([rows, probe.expand_as(rows)])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # averages, from the first batch on
            module.reset_running_stats()
            module.weight.data *= SOFTER
    if isinstance(network, RetinaNet):
        _settle_detector(network, rows, settling)
        return
    [head] = [module for module in network.modules() if isinstance(module, nn.Linear)]
    seen: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network.train()(settling)
        network.eval()(settling)
        features = torch.cat([seen[-1], torch.ones(len(settling), 1)], dim=1)  # (pictures and noise, channels + 1)
        wanted = torch.zeros(len(settling), head.out_features)  # none of the noise
        for index in range(len(rows)):
            wanted[index, index % len(views[0]) * head.out_features // len(views[0])] = LOGIT
        gram = features @ features.T
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(settling))
        fitted = features.T @ torch.linalg.solve(gram + ridge, wanted)  # (channels + 1, classes)
        head.weight.copy_(fitted[:-1].T)
        head.bias.copy_(fitted[-1])


def _settle_detector(network, rows, settling) -> None:  # type: ignore[no-untyped-def]
    """Give each class the same mean and spread of scores, with as many objects in a picture as a trained network sees.

    Random weights would find nothing, so that there would be no overlaps to suppress.
    """
    import torch

    head, seen = network.class_head[-1], []
    with torch.no_grad():
        network.train()(settling)
        hook = head.register_forward_hook(lambda _, __, logits: seen.append(logits.flatten(2)))  # one call a level
        network.eval()(rows)
        hook.remove()
        logits = torch.cat(seen, dim=2)  # (pictures, anchors of a position x classes, positions of all levels)
        deviation, mean = torch.std_mean(logits, dim=(0, 2))
        scores = (logits - mean[:, None]) / deviation[:, None]
        best = scores.flatten(1).topk(CANDIDATES).values.mean(dim=0)  # (CANDIDATES,)
        scale = -math.log(LEAST_SCORE / (1 - LEAST_SCORE)) / (best[OBJECTS] - best[-1])  # 0 is a score of 0.5
        head.weight.mul_((scale / deviation)[:, None, None, None])
        head.bias.copy_((head.bias - mean) * scale / deviation - scale * best[OBJECTS])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness.random_bundles", description=__doc__.splitlines()[2]
    )
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="tiny, or as python -m models lists")
    parser.add_argument("--folder", type=Path, help="NAME/VERSION to write a single one into (default: build/…)")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32", help="default: fp32")
    arguments = parser.parse_args()
    for network in arguments.networks:
        if arguments.folder:
            _export(network, arguments.folder, arguments.precision)
        else:
            print(random_bundle(network, arguments.precision))
    return 0


if __name__ == "__main__":
    sys.exit(main())
