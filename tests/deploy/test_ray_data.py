"""Ray Data on two nodes of this machine: deploy/ray/classify.py answers as the service does."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.ray_cluster import Cluster
from tests.helpers import EXAMPLES, RunningService

SCRIPT = """
import sys
import pyarrow as pa
import ray
import ray.data
from deploy.ray.classify import Classify, main

class Located(Classify):
    def __call__(self, batch):
        answers = super().__call__(batch)
        node = ray.get_runtime_context().get_node_id()
        return answers.append_column("node", pa.array([node] * len(answers)))

pictures, output = sys.argv[1:]
ray.init(log_to_driver=False)
context = ray.data.DataContext.get_current()
context.wait_for_min_actors_s = 300  # else the first one may have done it all
context.read_op_min_num_blocks = 2  # a process reads each, and another writes it
sys.exit(main([pictures, "--output", output, "--format", "json", "--top-k", "3"], actor=Located))
"""


def test_actors_on_two_nodes_answer_as_the_service(
    ray_programs: Path, cluster: Cluster, service: RunningService, tmp_path: Path
) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "answers"
    pictures.mkdir()
    for number in range(80):  # some batches
        for example in EXAMPLES.glob("*.jpg"):
            (pictures / f"{example.stem}-{number}.jpg").symlink_to(example)
    (pictures / "text.png").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("left out")
    done = subprocess.run(
        [ray_programs / "python", "-c", SCRIPT, pictures, output],
        env={**os.environ, **cluster.environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for file in output.iterdir() for line in file.read_text().splitlines()]
    assert len({row["node"] for row in rows}) == 2
    answers = {Path(row["path"]).name: row for row in rows}
    assert len(answers) == len(rows) == 4 * 80 + 1
    refused = service.classify(b"no picture").json()
    wrong = answers.pop("text.png")
    assert [wrong[name] for name in ("code", "detail", "labels")] == [
        refused["code"],
        refused["detail"],
        None,
    ]
    for example in EXAMPLES.glob("*.jpg"):
        expected = service.classify(example.read_bytes(), top_k=3).json()
        for number in (0, 79):
            assert predictions(answers[f"{example.stem}-{number}.jpg"]) == expected["predictions"]


def predictions(row: dict[str, Any]) -> list[dict[str, Any]]:
    """As `POST /classify` has them."""
    return [
        {"label": label, "class_index": index, "score": pytest.approx(score, rel=1e-4)}
        for label, index, score in zip(row["labels"], row["class_indices"], row["scores"], strict=True)
    ]
