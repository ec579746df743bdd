"""A model is tried once a test run, not at each start of a service: see service/repository/trials.py.

Tests start hundreds of services with the same few models. As with the workers of a service, a model that ended its
trial well is not tried again, whichever process asks; the key is all that a trial is given: the model, the shape of its
input, and the runtime. Bundles that differ in their names or labels share a verdict.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from aaserve.bundle.bundle import MODEL_FILE, Bundle
from aaserve.service.repository.trials import Trials
from aaserve.service.settings import Settings

FOLDER = "TRIED_MODELS"  # the environment variable that names the folder of verdicts
TRY = Trials.check


def remembered(folder: Path) -> Callable[[Trials, Bundle, Settings], Awaitable[None]]:
    """What replaces Trials.check."""

    async def check(trials: Trials, bundle: Bundle, settings: Settings) -> None:
        manifest = bundle.manifest
        tried = (manifest.files[MODEL_FILE], *manifest.input.shape, settings.provider, settings.cpu_precision)
        sound = folder / "-".join(map(str, tried))
        if not sound.exists():
            await TRY(trials, bundle, settings)
            sound.touch()

    return check
