"""python -m training RECIPE.toml … | init-recipe FILE … | evaluate FILE …"""

import sys

from aaserve.training import command, init_recipe, scoring

COMMANDS = {"evaluate": scoring.main, "init-recipe": init_recipe.main}

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] and arguments[0] in COMMANDS:
        sys.exit(COMMANDS[arguments[0]](arguments[1:]))
    sys.exit(command.main(arguments))
