"""python -m export CHECKPOINT|MODEL.onnx … | inspect BUNDLE | verify BUNDLE | evaluate BUNDLE DIR"""

import sys
from importlib import import_module

# Imported when chosen: only the export itself needs torch, which takes seconds to load and may not be installed.
COMMANDS = {
    "inspect": "aaserve.export.summary",
    "verify": "aaserve.export.verify",
    "evaluate": "aaserve.export.evaluate",
}

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] and arguments[0] in COMMANDS:
        sys.exit(import_module(COMMANDS[arguments[0]]).main(arguments[1:]))
    sys.exit(import_module("aaserve.export.command").main(arguments))
