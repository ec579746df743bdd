"""A model is tried once a test run, not at each start of a service: see service/repository/trials.py.

Tests start hundreds of services with the same few models. As with the workers of a service, a model that ended its
trial well is not tried again, whichever process asks; the key is the sha256 of its manifest, and the runtime.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from aaserve.bundle.bundle import Bundle
from aaserve.service.repository.trials import Trials
from aaserve.service.settings import Settings

FOLDER = "TRIED_MODELS"  # the environment variable that names the folder of verdicts
TRY = Trials.check


def remembered(folder: Path) -> Callable[[Trials, Bundle, Settings], Awaitable[None]]:
    """What replaces Trials.check."""

    async def check(trials: Trials, bundle: Bundle, settings: Settings) -> None:
        sound = folder / f"{bundle.manifest_sha256}-{settings.provider}-{settings.cpu_precision}"
        if not sound.exists():
            await TRY(trials, bundle, settings)
            sound.touch()

    return check
