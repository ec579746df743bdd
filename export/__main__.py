"""python -m export CHECKPOINT|MODEL.onnx … | inspect BUNDLE | verify BUNDLE | evaluate BUNDLE DIR"""

import sys
from collections.abc import Sequence
from importlib import import_module

# Imported when chosen: only the export itself needs torch, which takes seconds to load and may not be installed.
COMMANDS = {
    "inspect": "aaserve.export.summary",
    "verify": "aaserve.export.verify",
    "evaluate": "aaserve.export.evaluate",
}


def main(argv: Sequence[str], prog: str = "python -m export") -> int:
    name, arguments = "aaserve.export.command", argv
    if argv[:1] and argv[0] in COMMANDS:
        name, arguments, prog = COMMANDS[argv[0]], argv[1:], f"{prog} {argv[0]}"
    status: int = import_module(name).main(arguments, prog)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
