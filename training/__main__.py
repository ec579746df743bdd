"""python -m training RECIPE.toml …"""

import sys

from aaserve.training.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
