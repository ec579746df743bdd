"""On PYTHONPATH, this makes the batches of a service wait for company PATIENCE times as long as its settings say."""

import os
from functools import wraps
from typing import Any

from aaserve.service.engine.batcher import DynamicBatcher

create = DynamicBatcher.__init__


@wraps(create)
def create_patient(*arguments: Any, max_queue_delay: float, **options: Any) -> None:
    create(*arguments, max_queue_delay=float(os.environ["PATIENCE"]) * max_queue_delay, **options)


DynamicBatcher.__init__ = create_patient  # type: ignore[method-assign]
