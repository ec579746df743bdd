"""What ships beside the code, in a checkout and in a wheel alike; the current folder does not matter."""

from pathlib import Path

_PACKAGE = Path(__file__).parent.parent  # aaserve
MODELS = _PACKAGE / "model_repository"  # absent in the container image, which has them in /mnt/models
PHOTOGRAPHS = _PACKAGE / "examples"
