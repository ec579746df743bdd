"""aaserve tune PICTURES: which provider, precision, threads and batches answer fastest on this machine.

candidates --each in a process of its own--> images/s, latency, memory, same best class --> serving.toml (--write)
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aaserve.bundle.bundle import scan_repository
from aaserve.bundle.errors import BundleError
from aaserve.bundle.pictures.picture_files import find_pictures
from aaserve.service.errors import LoadFailed
from aaserve.service.repository.default_model import only_model
from aaserve.service.repository.model_settings import read_model_settings
from aaserve.service.repository.rollback import choose
from aaserve.service.resources import own_path, own_python
from aaserve.service.setting_names import first_problem, number_option
from aaserve.service.settings import Settings
from aaserve.service.tuning import measurement
from aaserve.service.tuning.candidates import (
    CLIENTS,
    JUDGED_AT,
    Candidate,
    Load,
    Measured,
    Results,
    first,
    further,
    recommended,
    table,
)
from aaserve.service.tuning.serving_file import write_settings

_OPENING = 3.0  # seconds, of one candidate, with its first answers
_AT_LEAST, _AT_MOST = 0.5, 10.0  # seconds of one figure
_INTERRUPTED = 130


def main(argv: Sequence[str], prog: str = "aaserve tune") -> int:
    """Measure, print and perhaps write; the exit status."""
    arguments = _parser(prog).parse_args(argv)
    try:
        settings = Settings(**({"repository": arguments.repository} if arguments.repository else {}))
        folder, bundle, settings = _model(settings, arguments.model)
        pictures = _pictures(arguments.pictures, arguments.limit)
        results = _measure(bundle, settings, pictures, arguments)
        best = recommended(results, arguments.agreement)
        print(table(results, best))
        if best is None:
            raise ValueError("nothing to recommend: no candidate could be measured")
        print(f"\n* recommended: {best.words}")
        if arguments.write:
            path = write_settings(folder, best.settings)
            print(f"written to {path}; a running service takes it at its next start or reload")
    except ValidationError as error:
        return _failed(first_problem(error))
    except (BundleError, LoadFailed, ValueError, OSError) as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        _say("\ninterrupted; nothing is written")
        return _INTERRUPTED
    return 0


def _model(settings: Settings, name: str | None) -> tuple[Path, Path, Settings]:
    """The folder of the model and of the version that is served, and the settings that hold for it."""
    found = scan_repository(settings.repository)
    name = name or only_model(settings, found)
    versions = found.get(name)
    if versions is None:
        raise LoadFailed(f"--model: expected one of {', '.join(found)}, found {name}")
    if isinstance(versions, BundleError):
        raise versions
    folder = settings.repository.resolve() / name
    own, settings = read_model_settings(folder, settings)
    return folder, folder / choose(folder, own, versions, undo=False).versions[-1], settings


def _pictures(folder: Path, limit: int) -> list[Path]:
    """At most `limit`, evenly spread over what is in the folder and below."""
    found = find_pictures(folder, deeper=True).pictures
    if not found:
        raise ValueError(f"{folder}: expected pictures, found none")
    return list(found) if len(found) <= limit else [found[number * len(found) // limit] for number in range(limit)]


def _measure(bundle: Path, settings: Settings, pictures: Sequence[Path], arguments: argparse.Namespace) -> Results:
    """Try what `first` has, then what is near the best of it, until the time is up."""
    until = time.monotonic() + arguments.seconds
    results: Results = {}
    waiting = first(settings)
    for stage in (1, 2):
        for number, candidate in enumerate(waiting):
            left = until - time.monotonic()
            later = len(waiting) - number + (4 if stage == 1 else 0)
            seconds = min(_AT_MOST, max(_AT_LEAST, (left / later - _OPENING) / len(CLIENTS)))
            if results and left < _OPENING + len(CLIENTS) * seconds:
                _say(f"not tried, as the time is up: {'; '.join(other.words for other in waiting[number:])}")
                return results
            _say(f"{candidate.words} …", end=" ")
            measured = _try(bundle, settings, candidate, pictures, seconds, arguments.load_timeout)
            results[candidate] = measured
            if isinstance(measured, str):
                _say(f"not possible: {measured}")
            else:
                _say(f"{measured.load[JUDGED_AT].images_per_second:.1f} images/s at {JUDGED_AT} clients")
        best = recommended(results, arguments.agreement)
        waiting = [*further(best)] if best else []
    return results


def _try(
    bundle: Path, settings: Settings, candidate: Candidate, pictures: Sequence[Path], seconds: float, patience: float
) -> Measured | str:
    """Figures of one candidate, or why there are none, in a few words."""
    order = {
        "bundle": str(bundle),
        "settings": {**settings.model_dump(mode="json"), **candidate.settings},
        "pictures": [str(path.resolve()) for path in pictures],
        "seconds": seconds,
        "clients": CLIENTS,
    }
    limit = patience + len(CLIENTS) * seconds
    try:
        done = subprocess.run(
            own_python(measurement.__name__),
            input=json.dumps(order) + "\n",
            env={**os.environ, **own_path()},
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return f"no figures within {limit:.0f} s"
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        return f"it ended with status {done.returncode}{': ' if last else ''}{last[:200]}"
    if "failure" in answer:
        return str(answer["failure"])
    load = {int(clients): Load(**figures) for clients, figures in answer["load"].items()}
    return Measured(load, answer["memory_mib"], tuple(answer["classes"]))


def _say(text: str, end: str = "\n") -> None:
    print(text, file=sys.stderr, end=end, flush=True)


def _failed(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Try providers, precisions, threads and batches of one model on your pictures, without HTTP, and "
        "recommend the fastest whose best classes are those of fp32. Nothing else should run on the machine meanwhile.",
    )
    add = parser.add_argument
    seconds = number_option(float, "1 to 86400 seconds", least=1, most=86_400)
    add("pictures", type=Path, metavar="PICTURES", help="folder of pictures such as the service will get")
    add("--repository", type=Path, metavar="DIR", help="folder of bundles (default: as for the service)")
    add("--model", metavar="NAME", help="model to tune (default: the default model)")
    add("--seconds", type=seconds, default=120.0, help="to take, about (default: %(default)g)")
    add(
        "--limit",
        type=number_option(int, "1 or more", least=1),
        default=100,
        metavar="N",
        help="pictures to use, at most (default: %(default)s)",
    )
    add(
        "--agreement",
        type=number_option(float, "a share from 0 to 1", least=0, most=1),
        default=0.99,
        metavar="SHARE",
        help="of the pictures that must have the best class of fp32 in what is recommended (default: %(default)s)",
    )
    add("--write", action="store_true", help="write what is recommended into NAME/serving.toml")
    add("--load-timeout", type=seconds, default=120.0, metavar="SECONDS", help="for one candidate to be opened")
    return parser
