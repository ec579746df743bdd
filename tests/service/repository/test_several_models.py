"""Several models of one service under load."""

from contextlib import ExitStack
from pathlib import Path

from aaserve.service.errors import QueueFull, ServiceError
from tests.service.repository.serving import serving
from tests.toy_bundles import write_fragile_bundle


def test_load_is_shed_only_while_no_model_has_room(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("a-model", "b-model"):
        write_fragile_bundle(models, name=name)
    with serving(models) as (_, app):
        lifecycle = app.state.lifecycle
        predictors = lifecycle.repository.predictors

        def shed(*full: int) -> ServiceError | None:
            with ExitStack() as stack:
                for index in full:
                    admission = predictors[index].admission
                    stack.enter_context(admission.admit(rows=admission.max_rows, timeout=60))
                refusal: ServiceError | None = lifecycle.refusal(timeout=60, arriving=0, slow=False)
                return refusal

        assert (shed(), shed(0), shed(1)) == (None, None, None)
        assert isinstance(shed(0, 1), QueueFull)
