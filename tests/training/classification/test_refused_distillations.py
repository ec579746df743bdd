"""Teachers, pictures and recipes from which no student can learn."""

from pathlib import Path

import pytest

from aaserve.models import create_model
from aaserve.training.recipe import Recipe
from tests.training.classification.distilling import CLASSES, LATE, distilling, refusal, saved, write
from tests.training.tiny import recipe


def test_a_teacher_of_other_classes_is_refused(teacher: Path, photographs: Path, tmp_path: Path) -> None:
    other = saved(create_model("wide_resnet10_1", num_classes=7), tmp_path / "other.safetensors")
    said = refusal(distilling(teacher, photographs, {"teacher_weights": str(other)}), photographs, tmp_path)
    assert said == f"{other}: expected a teacher of the data's {CLASSES} classes, found 7"


def test_pictures_without_labels_are_refused_where_labels_are_needed(
    teacher: Path, photographs: Path, tmp_path: Path
) -> None:
    chosen = distilling(teacher, photographs, {"label_weight": 0.5})
    assert refusal(chosen, photographs, tmp_path) == (
        "distillation.label_weight: expected labels of all pictures, 40 have none"
    )
    write(tmp_path / "train" / "mine" / "a.png", 0)
    assert "held_out: expected folders of pictures" in refusal(distilling(teacher, photographs), tmp_path, tmp_path)
    for name in ("cat.png", f"{CLASSES:04}_1.png"):
        write(tmp_path / "held_out" / "mine" / name, 0)
    said = refusal(distilling(teacher, photographs), tmp_path, tmp_path)
    assert "_1.png: expected a name that begins with the number of its class, 0 to 4, and an underscore" in said
    assert said.endswith("2 pictures have none")


@pytest.mark.parametrize(
    ("distillation", "optimisation", "message"),
    [
        ({"features": ["layer7"]}, {}, "distillation.features: no layer of both networks matches layer7"),
        ({}, {"learning": {"head.*": 1.0}}, "optimisation.learning: no parameter's name matches head.*"),
        ({"computed_once": "layer7"}, {}, "distillation.computed_once: the network has no layer layer7"),
        ({"teacher_options": {"kapa": 1}}, {}, "distillation.teacher_options of wide_resnet10_1: "),
        (
            {"computed_once": "layer2"},
            {"learning": {**LATE, "layer1.*": 1.0}},
            "layer1.0.bn1.weight cannot be trained, because",
        ),
        ({"computed_once": "layer2"}, {"learning": {"layer1.*": 1.0}}, "the loss depends on no trained parameter"),
    ],
    ids=[
        "features",
        "learning",
        "layer",
        "options",
        "a layer that is computed once learns",
        "only such a layer learns",
    ],
)
def test_a_recipe_that_does_not_fit_the_networks_is_refused(
    teacher: Path, photographs: Path, tmp_path: Path, distillation: dict, optimisation: dict, message: str
) -> None:
    assert message in refusal(distilling(teacher, photographs, distillation, **optimisation), photographs, tmp_path)


def test_a_student_of_other_weights_cannot_share_what_is_computed_once(
    teacher: Path, photographs: Path, tmp_path: Path
) -> None:
    chosen = distilling(teacher, photographs, {"computed_once": "layer2"})
    chosen = chosen.model_copy(update={"network": chosen.network.model_copy(update={"initial_weights": None})})
    assert "at layer2, the student's output differs from the teacher's" in refusal(chosen, photographs, tmp_path)


@pytest.mark.parametrize(
    ("distillation", "message"),
    [
        ({"logit_weight": 0, "feature_weight": 0, "features": []}, "are all 0"),
        ({"features": []}, "feature_weight and features must be set together"),
        ({"computed_once": "layer2", "in_memory": True}, "in_memory allows no augmentation but horizontal_flip"),
        ({"in_memory": True}, "in_memory needs computed_once"),
    ],
    ids=["no loss", "no features", "crops", "no layer"],
)
def test_a_distillation_that_contradicts_itself_is_refused(distillation: dict, message: str) -> None:
    content = recipe().model_dump()
    content["distillation"] = {
        **{"teacher": "wide_resnet10_1", "teacher_weights": "teacher.pth", "features": ["layer3"]},
        **{"logit_weight": 1, "feature_weight": 1, **distillation},
    }
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(content)
