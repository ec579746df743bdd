"""On PYTHONPATH, this makes a service patient, for tests on slow machines.

Its batches wait for company PATIENCE times as long as its settings say, and bodies may come as slowly as they like.
"""

import os
from functools import wraps
from typing import Any

from aaserve.service.engine.batcher import DynamicBatcher
from aaserve.service.http.body import receiving

create = DynamicBatcher.__init__


@wraps(create)
def create_patient(*arguments: Any, max_queue_delay: float, **options: Any) -> None:
    create(*arguments, max_queue_delay=float(os.environ["PATIENCE"]) * max_queue_delay, **options)


DynamicBatcher.__init__ = create_patient  # type: ignore[method-assign]
receiving.GRACE = 600.0
