"""python -m aaserve …: the command `aaserve` where it is not installed."""

import sys

from aaserve.command import main

if __name__ == "__main__":
    sys.exit(main())
