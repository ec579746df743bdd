"""`aaserve tune`: figures of real candidates, a recommendation, and a serving.toml that stays its owner's."""

import asyncio
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aaserve.bundle.bundle import sha256_of
from aaserve.service.errors import LoadFailed
from aaserve.service.repository.model_settings import read_model_settings
from aaserve.service.repository.rollback import Rollback, write_rollback
from aaserve.service.settings import Settings
from aaserve.service.tuning.candidates import Candidate, Load, Measured, first, further, recommended, table
from aaserve.service.tuning.command import main
from aaserve.service.tuning.measurement import measure
from aaserve.service.tuning.serving_file import write_settings
from tests.detector_bundle import coloured_png, write_detector
from tests.helpers import EXAMPLES, REPOSITORY, ROOT

OWNERS = '# ours\nversions = "latest"  # of all\nprovider = "auto" # for now\n\n"cpu_batch_ms"=5\nmax_batch_size = 4\n'


def candidate(provider: str = "cpu", precision: str = "fp32", threads: int = 2) -> Candidate:
    return Candidate(provider, precision, threads, 20.0)


def measured(rate: float, classes: tuple[int, ...] = (1, 2, 3, 4)) -> Measured:
    return Measured({clients: Load(rate, 10, 20) for clients in (1, 8, 32)}, 200, classes)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    shutil.copytree(REPOSITORY / "aa-cifar100" / "1", tmp_path / "aa-cifar100" / "1")
    (tmp_path / "aa-cifar100" / "serving.toml").write_text(OWNERS)
    return tmp_path


def test_every_runtime_of_this_machine_is_tried_and_the_reference_first() -> None:
    found = first(Settings(intra_op_num_threads=3))
    assert found[0] == Candidate("cpu", "fp32", 3, 20.0)
    assert len({(one.provider, one.cpu_precision) for one in found}) == len(found)
    assert [one.intra_op_num_threads for one in further(candidate(threads=8))] == [8, 8, 4, 2, 1]
    assert list(further(candidate("cuda"))) == []


def test_the_fastest_that_agrees_with_fp32_is_recommended() -> None:
    results = {
        candidate(): measured(10),
        candidate("openvino"): measured(10.2),  # no faster than what two runs differ by
        candidate("openvino", "bf16"): measured(20, (1, 2, 3, 5)),
    }
    assert recommended(results, 0.75) == candidate("openvino", "bf16")
    assert recommended(results, 0.76) == candidate()
    assert recommended({candidate(): "no memory"}, 0) is None
    lines = table(results | {candidate("cuda"): "no GPU"}, candidate()).splitlines()
    assert lines[1].startswith("* cpu fp32, 2 threads, cpu_batch_ms 20")
    assert lines[3].split()[-5:] == ["10", "/", "20", "200", "75.0%"]
    assert lines[4].split() == ["cuda", "not", "possible:", "no", "GPU"]


def test_a_detector_is_measured_and_compared_by_the_classes_of_its_objects(tmp_path: Path) -> None:
    pictures = {
        "two": coloured_png(64, 48, red=((1, 2, 30, 40), 204), blue=((40, 2, 60, 40), 255)),
        "weak": coloured_png(64, 48, green=((1, 2, 30, 40), 102)),
    }
    for name, content in pictures.items():
        (tmp_path / name).write_bytes(content)
    found = asyncio.run(
        measure(
            {
                "settings": {"provider": "cpu", "intra_op_num_threads": 1},
                "bundle": str(write_detector(tmp_path / "repository")),
                "pictures": [str(tmp_path / name) for name in pictures],
                "clients": [1],
                "seconds": 0.01,
            }
        )
    )
    assert found["classes"] == [[0, 2], []]
    assert found["load"][1]["images_per_second"] > 0


def test_a_serving_file_keeps_comments_and_other_keys(repository: Path) -> None:
    folder = repository / "aa-cifar100"
    path = write_settings(folder, {"provider": "openvino", "cpu_batch_ms": 0.0, "cpu_precision": "bf16"})
    assert path.read_text() == (
        '# ours\nversions = "latest"  # of all\nprovider = "openvino" # for now\n\n"cpu_batch_ms"=0.0\n'
        'max_batch_size = 4\ncpu_precision = "bf16"\n'
    )
    own, _ = read_model_settings(folder, Settings())
    assert (own.provider, own.cpu_batch_ms, own.cpu_precision, own.max_batch_size) == ("openvino", 0, "bf16", 4)
    assert [one.name for one in folder.iterdir() if one.name.startswith(".")] == []


def test_a_model_without_a_serving_file_gets_one(tmp_path: Path) -> None:
    assert write_settings(tmp_path, {"intra_op_num_threads": 2}).read_text() == "intra_op_num_threads = 2\n"


@pytest.mark.parametrize("text", ['provider = """\ncpu"""\n', "provider = 'cpu\n", '[table]\nprovider = "cpu"\n'])
def test_a_serving_file_in_another_form_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "serving.toml"
    path.write_text(text)
    with pytest.raises(LoadFailed, match=r"serving\.toml: expected"):
        write_settings(tmp_path, {"provider": "openvino"})
    assert path.read_text() == text


def test_the_real_thing_measures_and_writes(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In the least time there is, only the first candidate is measured."""
    options = ["--repository", str(repository), "--seconds", "1", "--write"]
    assert main([str(EXAMPLES), *options]) == 0
    out, err = capfd.readouterr()
    rows = out.splitlines()
    assert rows[1].startswith("* cpu fp32, ")
    assert rows[1].endswith("100.0%")
    assert "* recommended: cpu fp32, " in out
    assert "images/s at 8 clients" in err
    text = (repository / "aa-cifar100" / "serving.toml").read_text()
    expected = OWNERS.replace('"auto"', '"cpu"').replace("=5", "=5.0") + 'cpu_precision = "fp32"\n'
    assert text == f"{expected}intra_op_num_threads = {Settings().intra_op_num_threads}\n"
    on_openvino = Settings(provider="openvino", cpu_precision="bf16", intra_op_num_threads=1, cpu_batch_ms=7)
    _, settings = read_model_settings(repository / "aa-cifar100", on_openvino)
    found = settings.provider, settings.cpu_precision, settings.intra_op_num_threads, settings.cpu_batch_ms
    assert found == ("cpu", "fp32", Settings().intra_op_num_threads, 5)  # what was recommended


@pytest.mark.parametrize(
    ("pictures", "options", "message"),
    [
        (".", (), "expected pictures, found none"),
        ("nowhere", (), "nowhere: expected a readable folder, found: No such file or directory"),
        (".", ("--model", "other"), "--model: expected one of aa-cifar100, found other"),
    ],
)
def test_what_cannot_be_tuned_is_said_in_one_line(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: str, options: tuple, message: str
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    assert main([str(folder / pictures), "--repository", str(repository), *options]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--seconds", "0.5", "1 to 86400 seconds"),
        ("--load-timeout", "nan", "1 to 86400 seconds"),
        ("--limit", "1.5", "1 or more"),
        ("--agreement", "two", "a share from 0 to 1"),
    ],
)
def test_a_wrong_number_is_refused_with_what_was_expected(
    capsys: pytest.CaptureFixture[str], option: str, value: str, expected: str
) -> None:
    with pytest.raises(SystemExit):
        main([".", option, value])
    assert capsys.readouterr().err.endswith(f"error: argument {option}: expected {expected}, found {value!r}\n")


def test_a_candidate_that_cannot_be_opened_is_told_and_nothing_is_written(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "aa-cifar100" / "1" / "model.onnx").write_bytes(b"broken")
    options = ["--repository", str(repository), "--seconds", "1", "--write"]
    assert main([str(EXAMPLES), *options]) == 1
    out, err = capsys.readouterr()
    assert "not possible: " in out
    assert "expected sha256" in out
    assert err.splitlines()[-1] == "error: nothing to recommend: no candidate could be measured"
    assert (repository / "aa-cifar100" / "serving.toml").read_text() == OWNERS


def test_the_version_that_is_served_is_tuned(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not one that was rolled back from; and where none is served, that is said."""
    folder = repository / "aa-cifar100"
    shutil.copytree(folder / "1", folder / "2")
    manifest = (folder / "2" / "manifest.json").read_text().replace('"version": "1"', '"version": "2"')
    (folder / "2" / "manifest.json").write_text(manifest)
    (folder / "1" / "model.onnx").write_bytes(b"broken")
    write_rollback(folder, Rollback(set_aside={"2": sha256_of(manifest.encode())}, serve=("1",)))
    options = [str(EXAMPLES), "--repository", str(repository), "--seconds", "1"]
    assert main(options) == 1
    assert "1/model.onnx: expected sha256" in capsys.readouterr().out
    (folder / "serving.toml").write_text("versions = []\n")
    assert main(options) == 1
    assert "expected at least one version to serve, found none" in capsys.readouterr().err


def test_an_interrupted_run_writes_nothing(repository: Path) -> None:
    command = [sys.executable, "-m", "aaserve", "tune", str(EXAMPLES), "--repository", str(repository)]
    process = subprocess.Popen([*command, "--write"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    with process:
        while process.stderr.read(1) not in ("…", ""):  # a candidate is being measured
            pass
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted; nothing is written"
    assert (repository / "aa-cifar100" / "serving.toml").read_text() == OWNERS
