"""python -m benchmarks.accuracy --data DIR --output FILE [--url URL]

Accuracy as a client sees it: every CIFAR-100 test image goes as a PNG file to `POST /classify` of a running service.
The result is what `python -m export --accuracy FILE` puts into the manifest.
"""

import argparse
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from rich.progress import track

from benchmarks.circumstances import write_result
from training.cifar import Split, as_png, read_labels, read_split

CLIENTS = 4
TOP_K = 5


def measure(url: str, split: Split, labels: list[str]) -> dict[str, float]:
    """Return top-1 and top-5 accuracy; any answer but 200 ends the measurement."""
    with httpx.Client(base_url=url, timeout=30) as client, ThreadPoolExecutor(CLIENTS) as threads:

        def ranked(png: bytes) -> list[str]:
            response = client.post(
                "/classify", params={"top_k": TOP_K}, content=png, headers={"Content-Type": "image/png"}
            )
            response.raise_for_status()
            return [prediction["label"] for prediction in response.json()["predictions"]]

        answers = list(
            track(threads.map(ranked, map(as_png, split.images)), total=len(split.labels), description="classifying")
        )
    places = np.array(
        [
            answer.index(labels[label]) if labels[label] in answer else TOP_K
            for answer, label in zip(answers, split.labels, strict=True)
        ]
    )
    return {"top_1": float((places == 0).mean()), "top_5": float((places < TOP_K).mean())}


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
    accuracy = measure(arguments.url, split, read_labels(arguments.data))
    result = {
        "model": model,
        "accuracy": {
            "dataset": "CIFAR-100, test split",
            "images": len(split.labels),
            **accuracy,
            "measured": "python -m benchmarks.accuracy: every image as a PNG over HTTP to POST /classify, "
            f"{model['provider']}",
        },
    }
    write_result(arguments.output, result, "onnxruntime", "pillow", "fastapi", "uvicorn")
    print(f"top-1 {accuracy['top_1']:.2%}, top-5 {accuracy['top_5']:.2%} of {len(split.labels)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
