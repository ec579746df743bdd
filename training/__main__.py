"""python -m training RECIPE.toml --data DIR [--output DIR] [--resume]"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.recipe import read_recipe
from training.trainer import train


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train a network as a recipe says.")
    parser.add_argument("recipe", type=Path, help="TOML file, such as those in training/recipes/")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cifar-100-python/")
    parser.add_argument("--output", type=Path, help="where the run is kept (default: runs/NAME_OF_THE_RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on where the run in the output folder stopped")
    arguments = parser.parse_args(argv)
    output = arguments.output or Path("runs") / arguments.recipe.stem
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            top_1 = train(
                read_recipe(arguments.recipe), arguments.data, output, resume=arguments.resume, progress=progress
            )
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; --resume goes on after the last finished epoch in {output}", file=sys.stderr)
        return 130
    print(f"test top-1 {top_1:.2%}; weights in {output / 'model.safetensors'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
