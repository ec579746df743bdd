"""python -m training RECIPE.toml --data DIR [--output DIR] [--resume] …"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aaserve.training.datasets.data import DATA_HELP
from aaserve.training.loop.stop import Stop
from aaserve.training.loop.trainer import train
from aaserve.training.machine import open_machine
from aaserve.training.recipe import read_recipe


def main(argv: Sequence[str], prog: str = "python -m training") -> int:
    arguments = _parser(prog).parse_args(argv)
    output = arguments.output or Path("runs") / arguments.recipe.stem
    # Of several processes only the first reports the progress.
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        recipe = read_recipe(arguments.recipe)
        with (
            Stop(arguments.max_minutes * 60) as stop,
            open_machine(
                arguments.device, compiled=arguments.compile, deterministic=arguments.deterministic
            ) as machine,
            Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ):
            outcome = train(
                recipe,
                arguments.data,
                output,
                machine=machine,
                stop=stop,
                progress=progress,
                resume=arguments.resume,
                save_every=arguments.save_minutes * 60,
            )
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if isinstance(outcome, int):
        if machine.writes:
            print(f"stopped; --resume continues from {output / 'last.pt'}", file=sys.stderr)
        return outcome
    if machine.writes:
        print(f"test {outcome}; weights in {output / 'model.safetensors'}")
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train a network according to a recipe.",
        epilog="Exit status: 0 trained, 1 error, 75 time is up, 130 or 143 stopped by SIGINT or SIGTERM; after the "
        "last three, --resume continues. "
        "Several processes: torchrun --nproc-per-node N -m training …",
    )
    add = parser.add_argument
    add("recipe", type=Path, help="TOML file, such as those in training/recipes/")
    add("--data", type=Path, required=True, help=DATA_HELP)
    add("--output", type=Path, help="folder of the run (default: runs/NAME_OF_THE_RECIPE)")
    add("--resume", action="store_true", help="continue the run in the output folder")
    add("--save-minutes", type=minutes, default=10, help="minutes between checkpoints within an epoch (default: 10)")
    add("--max-minutes", type=minutes, default=float("inf"), help="save and stop after this time (default: no limit)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda if available")
    add("--compile", action="store_true", help="torch.compile; for GPUs")
    add("--deterministic", action="store_true", help="reproducible to the bit, also on a GPU; slower")
    return parser


def minutes(text: str) -> float:
    """Parse a duration in minutes."""
    value = float(text)
    if not value > 0:
        raise ValueError
    return value
