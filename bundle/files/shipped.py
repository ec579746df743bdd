"""Files that ship with the code, in a checkout and in a wheel, independent of the current folder."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[2]  # aaserve
MODELS = _PACKAGE / "model_repository"  # absent in the container image, which has the models in /mnt/models
PHOTOGRAPHS = _PACKAGE / "examples"
