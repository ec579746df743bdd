"""A folder that cannot be written, a disk that is full: one line, status 1, and nothing left behind."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import torch
from safetensors.torch import save_file

from aaserve.bundle.bundle import open_bundle
from aaserve.export.command import main
from aaserve.models import create_model
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_file(create_model("aa_wide_resnet10_1", num_classes=3, image_size=16).state_dict(), folder / "a.safetensors")
    (folder / "labels.json").write_text('["ant", "bee", "cat"]')
    return folder / "a.safetensors"


@dataclass
class Finished:
    """How the command ended, and what it printed."""

    status: int
    stdout: str
    stderr: str


class Run(Protocol):
    """The command on these weights; `limit` is the size in bytes at which writing a file fails, as on a full disk."""

    def __call__(self, repository: Path, *options: str, limit: int | None = None) -> Finished: ...


@pytest.fixture
def run(weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """In this process: a new one would import torch first, which takes seconds."""
    monkeypatch.chdir(ROOT)

    def run_here(repository: Path, *options: str, limit: int | None = None) -> Finished:
        arguments = [str(weights), "--arch", "aa_wide_resnet10_1", "--name", "small", "--version", "1"]
        arguments += ["--labels", str(weights.parent / "labels.json"), "--preprocessing", "imagenet"]
        arguments += ["--resize", "16", "--crop", "16", "--max-batch-size", "2", "--repository", str(repository)]
        with file_size_limit(limit):
            status = main([*arguments, *options])
        return Finished(status, *capfd.readouterr())

    return run_here


@contextmanager
def file_size_limit(limit: int | None) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_one_line(done: Finished, *parts: str) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.status == 1, done.stderr
    assert len(errors) == 1
    assert errors[0] == done.stderr.splitlines()[-1]
    assert all(part in errors[0] for part in parts), errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_repository_that_is_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "repository").write_text("mine")
    assert_one_line(run(tmp_path / "repository"), "repository/small/1: expected to write it, found: ")
    assert (tmp_path / "repository").read_text() == "mine"


def test_a_read_only_folder_is_reported(run: Run) -> None:
    assert_one_line(run(Path("/proc/repository")), "/proc/repository/small/1: expected to write it, found: ")


def test_a_disk_that_fills_up_leaves_nothing(run: Run, tmp_path: Path) -> None:
    done = run(tmp_path / "repository", limit=100_000)
    assert_one_line(done, "small/1: expected to write it, found: File too large")
    assert list((tmp_path / "repository").rglob("*.*")) == []


def test_a_disk_that_fills_up_while_replacing_leaves_the_old_version(run: Run, tmp_path: Path) -> None:
    assert run(tmp_path / "repository").status == 0
    folder = tmp_path / "repository" / "small" / "1"
    before = open_bundle(folder).manifest
    done = run(tmp_path / "repository", "--force", limit=100_000)
    assert_one_line(done, "small/1: expected to write it, found: File too large")
    assert open_bundle(folder).manifest == before
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_an_existing_version_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "small" / "1").mkdir(parents=True)
    done = run(tmp_path)
    assert_one_line(done, "small/1: expected no such version yet")
    assert "tracing" not in done.stderr
