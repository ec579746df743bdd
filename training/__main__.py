"""python -m training RECIPE.toml … | evaluate FILE …"""

import sys

from aaserve.training import command, scoring

if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(scoring.main(arguments[1:]) if arguments[:1] == ["evaluate"] else command.main(arguments))
