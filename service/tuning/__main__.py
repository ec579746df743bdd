"""python -m aaserve.service.tuning PICTURES …: the same as `aaserve tune`."""

import sys

from aaserve.service.tuning.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "python -m aaserve.service.tuning"))
