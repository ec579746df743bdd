"""python -m benchmarks.accuracy --data DIR --output FILE [--url URL]

Accuracy as a client sees it: every CIFAR-100 test image goes as a PNG file to `POST /classify` of a running service.
`python -m export --accuracy FILE` puts top-1 and top-5 into the manifest; docs/results.md shows those of each class.
"""

import argparse
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from rich.progress import track

from aaserve.training.datasets.cifar import Split, as_png, read_labels, read_split
from benchmarks.harness.circumstances import write_result

CLIENTS = 4
TOP_K = 5


def answers(url: str, split: Split) -> list[list[str]]:
    """The top labels of each image, best first; any status but 200 ends the measurement."""
    with httpx.Client(base_url=url, timeout=30) as client, ThreadPoolExecutor(CLIENTS) as threads:

        def ranked(png: bytes) -> list[str]:
            response = client.post(
                "/classify", params={"top_k": TOP_K}, content=png, headers={"Content-Type": "image/png"}
            )
            response.raise_for_status()
            return [prediction["label"] for prediction in response.json()["predictions"]]

        classified = threads.map(ranked, map(as_png, split.images))
        return list(track(classified, total=len(split.labels), description="classifying"))


def accuracies(found: list[list[str]], right: list[str]) -> dict[str, float]:
    """Top-1 and top-5 accuracy."""
    return {
        "top_1": float(np.mean([label == answer[0] for label, answer in zip(right, found, strict=True)])),
        "top_5": float(np.mean([label in answer for label, answer in zip(right, found, strict=True)])),
    }


def classes(found: list[list[str]], right: list[str]) -> dict[str, dict[str, object]]:
    """For each class: its accuracy, and the class with which it is most often confused, with the share of images."""
    firsts: dict[str, Counter[str]] = {label: Counter() for label in sorted(set(right))}
    for label, answer in zip(right, found, strict=True):
        firsts[label][answer[0]] += 1
    rows = {}
    for label, counts in firsts.items():
        images = counts.total()
        row: dict[str, object] = {"images": images, "top_1": counts.pop(label, 0) / images}
        if counts:
            other, times = counts.most_common(1)[0]
            row |= {"taken_for": other, "share": times / images}
        rows[label] = row
    return rows


def served_model(url: str) -> dict[str, str]:
    """Name, version, sha256, provider and precision of the one model served, from its metrics."""
    samples = re.findall(r"^aaserve_model_info\{(.*)\} 1\.0$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    if len(samples) != 1:
        raise SystemExit(f"error: {url}: expected one model, found {len(samples)}")
    return dict(re.findall(r'(\w+)="([^"]*)"', samples[0]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.splitlines()[2])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cifar-100-python/")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--url", default="http://localhost:8080", help="the running service")
    arguments = parser.parse_args()
    split = read_split(arguments.data, "test")
    model = served_model(arguments.url)
    labels = read_labels(arguments.data)
    right = [labels[index] for index in split.labels]
    found = answers(arguments.url, split)
    accuracy = accuracies(found, right)
    result = {
        "model": model,
        "accuracy": {
            "dataset": "CIFAR-100, test split",
            "images": len(split.labels),
            **accuracy,
            "measured": "python -m benchmarks.accuracy: every image as a PNG over HTTP to POST /classify, "
            f"{model['provider']}",
        },
        "classes": classes(found, right),
    }
    write_result(arguments.output, result, "onnxruntime", "pillow", "fastapi", "uvicorn")
    print(f"top-1 {accuracy['top_1']:.2%}, top-5 {accuracy['top_5']:.2%} of {len(split.labels)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
