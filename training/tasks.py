"""Recipe --> the task that it is for."""

from aaserve.training.classification import Classification
from aaserve.training.detection.task import Detection
from aaserve.training.recipe import CommonRecipe, DetectorRecipe, Recipe
from aaserve.training.task import Task


def task_of(recipe: CommonRecipe) -> Task:
    if isinstance(recipe, DetectorRecipe):
        return Detection(recipe)
    assert isinstance(recipe, Recipe)
    return Classification(recipe)
