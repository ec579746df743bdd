"""python -m training RECIPE.toml … | split FILE | join FILE"""

import sys

from aaserve.training import command, parts

if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit((parts if arguments[:1] in (["split"], ["join"]) else command).main(arguments))
