"""python -m training RECIPE.toml … | evaluate FILE …"""

import sys
from collections.abc import Sequence

from aaserve.training import command, scoring


def main(argv: Sequence[str], prog: str = "python -m training") -> int:
    if argv[:1] == ["evaluate"]:
        return scoring.main(argv[1:], f"{prog} evaluate")
    return command.main(argv, prog)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
