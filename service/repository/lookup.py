"""Which model answers a request: by name, version and task.

name and version --or--> the default model --or--> the only model of the task --> Predictor | ModelNotFound
"""

from collections.abc import Iterator

from aaserve.service.engine.predictor import Predictor
from aaserve.service.errors import ModelNotFound, NotReady
from aaserve.service.repository.served_model import ServedModel

RECOVERING = "recovering: a model stopped working and is being loaded again"


class ModelLookup:
    """The models of one process; `_default` is the one that a setting or the repository names."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}
        self._default: str | None = None

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    @property
    def predictors(self) -> list[Predictor]:
        """Those that answer."""
        return [loaded.predictor for model in self._models.values() for loaded in model.serving.values()]

    @property
    def default_model(self) -> str | None:
        """The model that answers a request that names none; None if such a request is refused."""
        if self._default is not None:
            return self._default
        served = self.served()
        return served[0] if len(served) == 1 else None

    @property
    def tasks(self) -> list[str]:
        """Those of the models that are served."""
        return sorted({model.default.manifest.task for model in self if model.serving})

    def default_for(self, task: str | None) -> str | None:
        """The model that answers a request for this task that names none; None if such a request is refused.

        It is the default model or, if that has another task, the only one that has this task.
        """
        name = self.default_model
        if task is None:
            return name
        default = self._models.get(name) if name else None
        if name and not (default and default.serving and default.default.manifest.task != task):
            return name
        of_task = self.served(task)
        return name if not of_task else of_task[0] if len(of_task) == 1 else None

    def predictor(self, name: str | None, version: str | None, task: str | None = None) -> Predictor:
        """The predictor for a request; without a name of the default model, without a version of its highest.

        Args:
            task: that is wanted, which matters where no name is given.

        Raises:
            ModelNotFound: not served here.
            NotReady: it stopped working and is being opened again; the others answer meanwhile.
        """
        if name is None:
            name = self.default_for(task)
            if name is None and (possible := self.served(task)):
                raise ModelNotFound(f"several models are served; add ?model= with one of {', '.join(possible)}")
            if name is not None and not ((model := self._models.get(name)) and model.serving):
                raise ModelNotFound(f"the default model, {name}, is not loaded; served: {self._listed}")
        if name is None or name not in self._models:
            what = "such model" if name or not task else f"model for {task}"
            raise ModelNotFound(f"no {what}; served: {self._listed}")
        predictor = self._models[name].version(version)
        if not predictor.ready:
            raise NotReady(RECOVERING)
        return predictor

    def candidates(self, name: str | None, version: str | None, task: str | None) -> list[Predictor]:
        """Those that a request can mean while more of its name may still come, one at least.

        Args:
            task: that is wanted: models of others are left out, unless there is nothing else.

        Raises:
            ModelNotFound: there is none.
        """
        found = [
            loaded.predictor
            for model in self
            if name in (None, model.name)
            for number, loaded in model.serving.items()
            if version in (None, number)
        ]
        of_task = [predictor for predictor in found if predictor.manifest.task == task]
        return of_task or found or [self.predictor(name, version, task)]

    def versions(self, name: str) -> list[str]:
        """Those of a model that answer, ascending."""
        return list(self._models[name].serving)

    def served(self, task: str | None = None) -> list[str]:
        """The names of the models that answer and, if one is given, have this task."""
        served = [model for model in self._models.values() if model.serving]
        return [model.name for model in served if task is None or model.default.manifest.task == task]

    @property
    def _listed(self) -> str:
        return ", ".join(self.served()) or "none"
