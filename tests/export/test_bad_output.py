"""A folder that cannot be written, a disk that is full: one line, status 1, and nothing left behind."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bundle.bundle import open_bundle
from models import create_model
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_file(create_model("aa_wide_resnet10_1", num_classes=3, image_size=16).state_dict(), folder / "a.safetensors")
    (folder / "labels.json").write_text('["ant", "bee", "cat"]')
    return folder / "a.safetensors"


def run(weights: Path, repository: Path, *options: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """The command as typed; `limit` is the size in bytes at which writing a file fails, as on a full disk."""
    command = [sys.executable, "-m", "export", str(weights), "--arch", "aa_wide_resnet10_1", "--name", "small"]
    command += ["--version", "1", "--labels", str(weights.parent / "labels.json"), "--preprocessing", "imagenet"]
    command += ["--resize", "16", "--crop", "16", "--max-batch-size", "2", "--repository", str(repository), *options]

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, preexec_fn=set_limit if limit is not None else None
    )


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1, done.stderr
    assert len(errors) == 1
    assert errors[0] == done.stderr.splitlines()[-1]
    assert all(part in errors[0] for part in parts), errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_repository_that_is_a_file(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "repository").write_text("mine")
    assert_one_line(run(weights, tmp_path / "repository"), "repository/small/1: expected to write it, found: ")
    assert (tmp_path / "repository").read_text() == "mine"


def test_a_folder_where_nobody_may_write(weights: Path) -> None:
    assert_one_line(run(weights, Path("/proc/repository")), "/proc/repository/small/1: expected to write it, found: ")


def test_a_disk_that_fills_up_leaves_nothing(weights: Path, tmp_path: Path) -> None:
    done = run(weights, tmp_path / "repository", limit=100_000)
    assert_one_line(done, "small/1: expected to write it, found: File too large")
    assert list((tmp_path / "repository").rglob("*.*")) == []


def test_a_disk_that_fills_up_while_replacing_leaves_the_old_version(weights: Path, tmp_path: Path) -> None:
    assert run(weights, tmp_path / "repository").returncode == 0
    folder = tmp_path / "repository" / "small" / "1"
    before = open_bundle(folder).manifest
    done = run(weights, tmp_path / "repository", "--force", limit=100_000)
    assert_one_line(done, "small/1: expected to write it, found: File too large")
    assert open_bundle(folder).manifest == before
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_an_existing_version_is_refused_before_any_work(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "small" / "1").mkdir(parents=True)
    done = run(weights, tmp_path)
    assert_one_line(done, "small/1: expected no such version yet")
    assert "tracing" not in done.stderr
