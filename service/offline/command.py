"""aaserve classify PATH… [--output FILE.csv|FILE.jsonl]: what POST /classify answers, for files and without HTTP.

paths --not answered yet--> OfflineClassifier --> a line of the output for each
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from aaserve.bundle.errors import BundleError
from aaserve.bundle.pictures.picture_files import told
from aaserve.service.errors import LoadFailed, ModelHung, ModelLost, ServiceError, StartFailed
from aaserve.service.offline.classifier import open_classifier
from aaserve.service.offline.files import STDIN, find_files
from aaserve.service.offline.progress import Progress
from aaserve.service.offline.results import FORMATS, Results
from aaserve.service.setting_names import first_problem, number_option
from aaserve.service.settings import ProviderName, Settings

SOME_FAILED = 3


def main(argv: Sequence[str], prog: str = "aaserve classify") -> int:
    """Classify files; the exit status, as --help has it."""
    arguments = _parser(prog).parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    warnings.filterwarnings("ignore", module="PIL")  # it warns of odd metadata; what matters is checked
    given = {name: value for name in ("repository", "provider") if (value := getattr(arguments, name)) is not None}
    try:
        settings = Settings(**given)
        paths, left_out = find_files(arguments.paths, sys.stdin.buffer if STDIN in arguments.paths else [])
        if words := told(left_out):
            print(words, file=sys.stderr)
        if not paths:
            raise ValueError("no pictures to classify")
        return asyncio.run(_classify(settings, paths, arguments))
    except ValidationError as error:
        return _failed(first_problem(error))
    except BrokenPipeError:  # of stdout, whose reader has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python flushes at its end
        return 1
    except ModelHung as error:
        _failed(str(error))
        sys.stderr.flush()
        os._exit(1)  # the interpreter would wait for the thread that hangs
    except (BundleError, LoadFailed, ModelLost, ServiceError, StartFailed, ValueError, OSError) as error:
        return _failed(str(error))


async def _classify(settings: Settings, paths: Sequence[str], arguments: argparse.Namespace) -> int:
    stopped_by: list[int] = []
    task = asyncio.current_task()
    assert task is not None

    def stop(number: int) -> None:
        stopped_by.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await _answer_all(settings, paths, arguments)
    except asyncio.CancelledError:
        if not stopped_by:
            raise
        if arguments.output:
            print("stopped; the same command goes on from here", file=sys.stderr)
        return 128 + stopped_by[0]


async def _answer_all(settings: Settings, paths: Sequence[str], arguments: argparse.Namespace) -> int:
    options: dict[str, Any] = {name: getattr(arguments, name) for name in ("model", "version", "top_k")}
    async with open_classifier(settings, **options) as classifier:
        with Results(arguments.output, classifier.manifest, classifier.top_k) as results:
            waiting = [path for path in paths if path not in results.done]
            # Lines that go to the same terminal say it all.
            shown = sys.stderr.isatty() and (arguments.output is not None or not sys.stdout.isatty())
            progress = Progress(len(paths), len(paths) - len(waiting), shown=shown)
            try:
                async with aclosing(classifier.answers(waiting)) as answers:
                    async for answer in answers:
                        results.write(answer)
                        progress.advance(results.failed)
            finally:
                said = progress.end(results.failed)
                if arguments.output or results.failed:
                    print(said, file=sys.stderr)
    return SOME_FAILED if results.failed else 0


def _parser(prog: str) -> argparse.ArgumentParser:
    fields = Settings.model_fields
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Classify files as POST /classify does, without HTTP: a JSON line for each on stdout, or a file.",
        epilog=f"Exit status: 0 every picture has an answer, {SOME_FAILED} some have an error in its place, 1 not all "
        "were tried, 2 usage, 130 or 143 stopped by SIGINT or SIGTERM. After 1, 130 and 143 the same command goes on "
        "where the output ends. All other settings are those of aaserve serve: AASERVE_NAME in the environment.",
    )
    add = parser.add_argument
    add(
        "paths",
        nargs="+",
        metavar="PATH",
        help="picture, folder with all below it, quoted glob, or - for a list on stdin",
    )
    add("--output", type=_output, metavar="FILE", help="file to write or to go on with, .csv or .jsonl")
    add("--model", metavar="NAME", help="model of the repository (default: the default model)")
    add("--version", metavar="V", help="version of the model (default: the highest)")
    add(
        "--top-k",
        type=number_option(int, "a whole number above 0", least=1),
        metavar="N",
        help="labels of each picture (default: 5)",
    )
    add("--repository", type=Path, metavar="DIR", help=f"{fields['repository'].description} (default: what ships)")
    add("--provider", choices=get_args(ProviderName), help=fields["provider"].description)
    return parser


def _output(text: str) -> Path:
    path = Path(text)
    if path.suffix not in FORMATS:
        raise argparse.ArgumentTypeError(f"expected a name that ends in {' or '.join(FORMATS)}, found {text!r}")
    return path


def _failed(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1
