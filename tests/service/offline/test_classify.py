"""aaserve classify: what POST /classify answers, for files and without HTTP."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from aaserve.service.errors import ServiceError
from aaserve.service.offline import classifier as classifier_module
from aaserve.service.offline.classifier import Answer, open_classifier
from aaserve.service.offline.command import main
from aaserve.service.settings import Settings
from tests.detector_bundle import write_detector
from tests.forked_service import forked_command
from tests.helpers import EXAMPLES, REPOSITORY, ROOT, RunningService
from tests.toy_bundles import HANGS, LABELS, OUT_OF_RANGE, label_of, picture, write_fragile_bundle

MODEL = {"model": "aa-cifar100", "version": "1"}


# The command, which stops itself in the middle of its work.
STOPS_ITSELF = """
import os, signal, sys
from aaserve.service.offline.command import main
from aaserve.service.offline.results import Results

write, written = Results.write, []

def write_and_stop(results, answer):
    write(results, answer)
    written.append(answer)
    if len(written) == 12:
        os.kill(os.getpid(), signal.SIGSTOP)

Results.write = write_and_stop
sys.exit(main(sys.argv[1:]))
"""


def arguments(*given: str | Path, repository: Path = REPOSITORY) -> list[str]:
    return [sys.executable, "-m", "aaserve", "classify", "--repository", str(repository), *map(str, given)]


def classify(
    *given: str | Path, repository: Path = REPOSITORY, listed: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return forked_command(*arguments(*given, repository=repository)[3:], given=listed, environment=environment or {})


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def line(path: str, label: str) -> bytes:
    prediction = {"label": label, "class_index": 0, "score": 0.5}
    return json.dumps({"path": path, **MODEL, "predictions": [prediction]}, separators=(",", ":")).encode() + b"\n"


def test_answers_are_those_of_the_service(service: RunningService) -> None:
    done = classify(EXAMPLES, "--top-k", "3")
    assert (done.returncode, done.stderr) == (0, "left out: 1 .md\n")
    answers = lines(done.stdout)
    assert [answer.pop("path") for answer in answers] == sorted(map(str, EXAMPLES.glob("*.jpg")))
    for answer, path in zip(answers, sorted(EXAMPLES.glob("*.jpg")), strict=True):
        expected = service.classify(path.read_bytes(), top_k=3).json()
        for found, wanted in zip(answer["predictions"], expected["predictions"], strict=True):
            assert found == wanted | {"score": pytest.approx(wanted["score"], rel=1e-4)}
        assert answer | {"predictions": []} == expected | {"predictions": []}


def test_every_file_has_its_own_error_as_the_service_gives_it(service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"no picture")
    (tmp_path / "cut.jpg").write_bytes((EXAMPLES / "cat.jpg").read_bytes()[:2000])
    (tmp_path / "good.png").write_bytes(picture(1))
    (tmp_path / "large.jpg").write_bytes((EXAMPLES / "cat.jpg").read_bytes() + bytes(40_000))
    listed = f"{tmp_path}/gone.png\n\n{tmp_path}/good.png\n{tmp_path}\n"
    limit = {"AASERVE_MAX_BODY_BYTES": "40000"}
    done = classify(tmp_path, "-", "--top-k", "1", listed=listed, environment=limit)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].endswith("; 5 without an answer")
    answers = {Path(answer["path"]).name: answer for answer in lines(done.stdout)}
    assert len(answers) == len(done.stdout.splitlines()) == 6  # each once
    for name in ("text.png", "cut.jpg"):
        refused = service.classify((tmp_path / name).read_bytes()).json()
        assert answers[name]["problem"] == {key: refused[key] for key in ("status", "code", "detail")}
    codes = {name: answer["problem"]["code"] for name, answer in answers.items() if "problem" in answer}
    assert codes.pop("large.jpg") == "body_too_large"
    assert codes.pop("gone.png") == codes.pop(tmp_path.name) == "unreadable_file"
    assert len(answers["good.png"]["predictions"]) == 1


def test_a_model_of_detection_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_detector(tmp_path)
    done = classify(EXAMPLES, repository=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "error: colours: expected a model of classification, found one of detection; "
        "name another one with --model, or send the images to POST /detect"
    )


def test_a_jsonl_file_is_gone_on_with(tmp_path: Path) -> None:
    output, cup = tmp_path / "out.jsonl", EXAMPLES / "cup.jpg"
    before = line(str(cup), "as it was")
    output.write_bytes(before + line(str(EXAMPLES / "cat.jpg"), "x")[:-20])
    done = classify(EXAMPLES, "--top-k", "1", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "3 pictures in" in done.stderr
    assert "; 1 were answered before" in done.stderr
    assert output.read_bytes().startswith(before)
    assert {Path(one["path"]).name for one in lines(output.read_text())} == {p.name for p in EXAMPLES.glob("*.jpg")}


def test_a_stopped_run_is_gone_on_with(tmp_path: Path) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "out.jsonl"
    pictures.mkdir()
    for number in range(200):
        (pictures / f"{number:04}.jpg").symlink_to(EXAMPLES / "rocket.jpg")
    command = [sys.executable, "-c", STOPS_ITSELF, *arguments(pictures, "--output", output)[4:]]
    few = {**os.environ, "AASERVE_INTRA_OP_NUM_THREADS": "1", "AASERVE_MAX_BATCH_SIZE": "1"}  # pictures in flight
    with subprocess.Popen(command, cwd=ROOT, env=few, stderr=subprocess.PIPE, text=True) as running:
        state = os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert state.si_code == os.CLD_STOPPED
        second = classify(pictures, "--output", output)
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGCONT)
        said = running.stderr.read()
    assert (second.returncode, second.stderr) == (1, f"error: {output}: another run is writing it\n")
    assert running.returncode == 143, said
    assert "stopped; the same command goes on from here" in said
    answered = output.read_bytes()
    assert 12 <= answered.count(b"\n") < 200
    assert classify(pictures, "--output", output).returncode == 0
    assert output.read_bytes().startswith(answered)
    assert [Path(one["path"]).name for one in lines(output.read_text())] == [f"{n:04}.jpg" for n in range(200)]


def test_a_model_that_hangs_ends_the_run_and_is_no_answer(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path / "models")
    for red in (1, HANGS):
        (tmp_path / f"{red}.png").write_bytes(picture(red))
    done = classify(
        tmp_path / "1.png",
        tmp_path / f"{HANGS}.png",
        repository=tmp_path / "models",
        environment={"AASERVE_MODEL_CALL_TIMEOUT_MS": "2000", "AASERVE_MAX_BATCH_SIZE": "1"},
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: fragile: a model call took more than 2 s"
    assert "problem" not in done.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nowhere.jpg"], "nowhere.jpg: expected a file, a folder or a glob that matches one, found none"),
        (["docs/decisions"], "no pictures to classify"),
        (["examples", "--model", "x"], "no such model"),
        (["examples", "--version", "7"], "no such version of aa-cifar100; served: 1"),
        (["examples", "--top-k", "101"], "top_k must be 1 to 100 for aa-cifar100, found 101"),
        (["examples", "--repository", "nowhere"], "nowhere: expected a folder of bundles"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_begin_is_one_line(
    given: list[str], said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["--repository", str(REPOSITORY), *given]) == 1
    found = capfd.readouterr()
    assert found.out == ""
    assert f"error: {said}" in found.err.splitlines()[-1]
    assert "Traceback" not in found.err


@pytest.mark.parametrize("value", ["0", "many"])
def test_a_wrong_number_of_labels_is_refused_with_what_was_expected(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([".", "--top-k", value])
    said = f"error: argument --top-k: expected a whole number above 0, found {value!r}\n"
    assert capsys.readouterr().err.endswith(said)


def test_globs_are_resolved_and_a_reader_may_leave(tmp_path: Path) -> None:
    command = arguments("examples/**/r*t.jpg")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert json.loads(running.stdout.readline())["path"] == "examples/rocket.jpg"
    assert running.returncode == 0
    command = arguments(*["examples/rocket.jpg"], *[str(path) for path in many_links(tmp_path, 100)])
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read().count("Traceback") == 0
    assert running.returncode == 1


def many_links(folder: Path, count: int) -> Iterator[Path]:
    for number in range(count):
        (folder / f"{number}.jpg").symlink_to(EXAMPLES / "rocket.jpg")
        yield folder / f"{number}.jpg"


def in_process(repository: Path, paths: Iterator[str], answers: list[Answer]) -> int:
    """Collect the answers; the number of pictures that may be in flight."""

    async def run() -> int:
        async with open_classifier(Settings(repository=repository), top_k=1) as classifier:
            async for answer in classifier.answers(paths):
                answers.append(answer)
            return classifier.in_flight

    return asyncio.run(run())


def test_answers_keep_the_order_and_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier_module, "_KEPT", 8)
    write_fragile_bundle(tmp_path / "models")
    begun, most = 0, 0
    answers: list[Answer] = []

    def paths() -> Iterator[str]:
        nonlocal begun, most
        for red in range(OUT_OF_RANGE - 60):
            (tmp_path / f"{red}.png").write_bytes(picture(red))
            begun += 1
            most = max(most, begun - len(answers))
            yield str(tmp_path / f"{red}.png")

    in_flight = in_process(tmp_path / "models", paths(), answers)
    found = [answer.outcome[0]["label"] for answer in answers if not isinstance(answer.outcome, ServiceError)]
    assert found == [label_of(red) for red in range(OUT_OF_RANGE - 60)]
    assert set(found) == set(LABELS)
    assert most <= max(8, in_flight) + 1


def test_a_picture_that_the_model_fails_on_disturbs_no_other(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path / "models")
    reds = [1, OUT_OF_RANGE, 2]
    for red in reds:
        (tmp_path / f"{red}.png").write_bytes(picture(red))
    answers: list[Answer] = []
    in_process(tmp_path / "models", iter([str(tmp_path / f"{red}.png") for red in reds]), answers)
    assert [answer.outcome.code if isinstance(answer.outcome, ServiceError) else None for answer in answers] == [
        None,
        "internal",
        None,
    ]
