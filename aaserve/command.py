"""aaserve SUBCOMMAND …: one command for everything. Each subcommand has its own options and its own --help.

aaserve serve … = python -m service …, aaserve export … = python -m export …, aaserve train … = python -m training …

Imports nothing of the others until one is chosen: each needs other packages, and `healthcheck` runs every few seconds.
"""

import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Subcommand:
    """What to import, and which extras install what it needs."""

    module: str
    words: str
    extras: str = ""


SUBCOMMANDS = {
    "serve": Subcommand("aaserve.service", "serve models over HTTP", "cpu (or gpu)"),
    "classify": Subcommand("aaserve.service.offline.command", "classify files without HTTP", "cpu (or gpu)"),
    "tune": Subcommand("aaserve.service.tuning.command", "find the fastest settings on this machine", "cpu (or gpu)"),
    "export": Subcommand("aaserve.export.__main__", "make a bundle of a PyTorch checkpoint or ONNX file", "cpu,export"),
    "inspect": Subcommand("aaserve.export.summary", "show what a bundle contains", "export"),
    "verify": Subcommand("aaserve.export.verify", "check a bundle and its answers", "cpu"),
    "evaluate": Subcommand("aaserve.export.evaluate", "measure a bundle's accuracy on your pictures", "cpu,export"),
    "train": Subcommand("aaserve.training.__main__", "train a network", "training"),
    "healthcheck": Subcommand("aaserve.service.healthcheck", "exit with 0 if the service on this machine is ready"),
}
HELP = ("-h", "--help")


def main() -> int:
    """Run the subcommand that the command line names; the exit status."""
    name, *arguments = sys.argv[1:] or HELP[1:]
    if name in HELP:
        print(_help())
        return 0
    if name == "--version":
        from aaserve.service.version import VERSION

        print(VERSION)
        return 0
    if name not in SUBCOMMANDS:
        print(f"error: no subcommand {name!r}; expected one of {', '.join(SUBCOMMANDS)}", file=sys.stderr)
        return 2
    try:
        return _run(name, arguments)
    except ModuleNotFoundError as error:
        if (line := _not_installed(name, error.name or "")) is None:
            raise
        print(line, file=sys.stderr)
        return 1


def _run(name: str, arguments: Sequence[str]) -> int:
    prog, module = f"aaserve {name}", SUBCOMMANDS[name].module
    if name == "serve":  # handles signals before its imports, which takes being __main__
        sys.argv = [prog, *arguments]
        runpy.run_module(module, run_name="__main__")
    status: int = import_module(module).main(arguments, prog)
    return status


def _not_installed(name: str, module: str) -> str | None:
    """One line about a module that is missing; None if no installation has it."""
    subcommand = SUBCOMMANDS[name]
    if module.partition(".")[0] == "aaserve":
        whole = module in subcommand.module  # the container image has no export and no training
        return f"error: aaserve {name} is no part of this installation ({module})" if whole else None
    return f"error: aaserve {name} needs the extra {subcommand.extras}, found no module named {module!r}"


def _help() -> str:
    rows = "\n".join(f"  {name:<12} {subcommand.words}" for name, subcommand in SUBCOMMANDS.items())
    return (
        "usage: aaserve SUBCOMMAND ...\n\n"
        "Image classification and object detection with attention-augmented networks: serve, export, train.\n\n"
        f"{rows}\n\naaserve SUBCOMMAND --help shows its options; aaserve --version the version."
    )
