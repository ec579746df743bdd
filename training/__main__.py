"""python -m training RECIPE.toml … | init-recipe FILE … | evaluate FILE …"""

import sys
from collections.abc import Sequence

from aaserve.training import command, init_recipe, scoring

COMMANDS = {"evaluate": scoring.main, "init-recipe": init_recipe.main}


def main(argv: Sequence[str], prog: str = "python -m training") -> int:
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:], f"{prog} {argv[0]}")
    return command.main(argv, prog)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
