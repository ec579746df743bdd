"""python -m training: what a run learns, leaves behind and says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress
from safetensors.torch import load_file

from aaserve.bundle.preprocessing import normalise, preprocess
from aaserve.export.sources.checkpoint import read_checkpoint
from aaserve.training import command, scoring
from aaserve.training.classification.evaluate import Score, evaluate
from aaserve.training.datasets.augmentation import augment
from aaserve.training.datasets.data import Data, open_data
from aaserve.training.loop.checkpoint import load_state
from aaserve.training.loop.run import Run
from aaserve.training.loop.step import batches, train_step
from aaserve.training.loop.stop import Stop
from aaserve.training.loop.trainer import train
from aaserve.training.optimisation.optimiser import averaged
from aaserve.training.recipe import Recipe, read_recipe
from tests.helpers import encode, noise
from tests.training.tiny import CPU, SHIPPED_RECIPE, epochs, recipe, run


def test_the_weights_carry_what_export_needs(data: Path, tmp_path: Path) -> None:
    chosen = recipe(epochs=1, options={"dropout": 0.1})
    score = run(chosen, data, tmp_path)
    metadata = read_checkpoint(tmp_path / "model.safetensors").metadata
    assert metadata["labels"][7] == "class 7"
    assert metadata["test"] == {"images": 16, "top_1": score.top_1, "top_5": score.top_5}
    assert Recipe.model_validate(metadata["recipe"]) == chosen


def test_the_network_learns(data: Path, tmp_path: Path) -> None:
    """Noise can be learned by heart: the loss on the training images must fall far below chance."""
    run(recipe(epochs=20, max_learning_rate=0.1, batch_size=8, evaluate_every=10), data, tmp_path)
    rows = epochs(tmp_path)
    assert float(rows[-1]["loss"]) < 0.75 * float(rows[0]["loss"])
    assert [row["epoch"] for row in rows if row["top_1"]] == ["10", "20"]
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.size == (1320, 540)


def test_accumulated_parts_of_a_batch_move_the_weights_as_the_whole(data: Path) -> None:
    """Without normalisation over the batch, which sees the parts."""
    runs = []
    for accumulation in (1, 4):
        chosen = recipe(accumulation=accumulation, augmentation={"cutmix_alpha": 0.0})
        runs.append(Run(chosen, opened(data, chosen), CPU))
    for one in runs:
        one.network.eval()
        train_step(one, *next(batches(one)))
    for whole, parts in zip(*(one.network.parameters() for one in runs), strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(runs[0].loss, runs[1].loss, rtol=1e-5, atol=0)


def test_the_seed_and_nothing_else_decides(data: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        one = Run(recipe(seed=seed, options={"dropout": 0.5}), opened(data, recipe()), CPU)
        train_step(one, *next(batches(one)))
        return torch.cat([parameter.detach().flatten() for parameter in one.network.parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_an_epoch_shows_every_image_once_and_each_epoch_another_order(data: Path) -> None:
    one = Run(recipe(), opened(data, recipe()), CPU)
    seen = [torch.cat([classes for _, classes in batches(one)])]
    one.step = one.steps
    seen.append(torch.cat([classes for _, classes in batches(one)]))
    assert torch.equal(seen[0].sort().values, torch.from_numpy(one.data.training.classes).sort().values)
    assert torch.equal(seen[0].sort().values, seen[1].sort().values)
    assert not torch.equal(seen[0], seen[1])


def test_averaged_weights_follow_the_formula() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    average = averaged(network, 0.75)
    expected = None
    for value in (1.0, 2.0, 4.0):
        network[0].weight.data.fill_(value)
        network[1].running_mean.fill_(value)
        average.update_parameters(network)
        expected = value if expected is None else 0.75 * expected + 0.25 * value
        assert average.module[0].weight.item() == average.module[1].running_mean.item() == expected


def test_averaged_weights_are_those_evaluated_and_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = []

    def remember(network: torch.nn.Module, *arguments: object) -> Score:
        evaluated.append({name: value.clone() for name, value in network.state_dict().items()})
        return Score(16, 0.5, 1.0)

    monkeypatch.setattr("aaserve.training.classification.task.evaluate", remember)
    run(recipe(ema_decay=0.9, epochs=1), data, tmp_path)
    average = load_state(tmp_path / "last.pt")["average"]
    kept = load_file(tmp_path / "model.safetensors")
    for name, value in kept.items():
        assert torch.equal(value, average[f"module.{name}"])
        assert torch.equal(value, evaluated[0][name])


def test_a_weight_that_is_not_finite_is_not_saved_even_if_the_loss_is_finite(data: Path) -> None:
    one = Run(recipe(precision="bf16"), opened(data, recipe()), CPU)
    with torch.no_grad():
        one.network.get_parameter("conv1.weight")[0, 0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"conv1\.weight is not finite at step 0: .* precision fp32"):
        one.state()


def test_random_numbers_differ_from_step_to_step(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(
        "aaserve.training.classification.task.augment",
        lambda *arguments: drawn.append(arguments[-1].tobytes()) or augment(*arguments),
    )
    one = Run(recipe(), opened(data, recipe()), CPU)
    for _ in range(2):
        for batch in batches(one):
            train_step(one, *batch)
    assert len(set(drawn)) == 6


def test_evaluation_counts_the_label_among_the_first_and_the_first_five() -> None:
    class Told:
        """The pixel of an image is its class; the network below answers with neighbours of it."""

        classes = np.array([0, 1, 2, 3])

        def batches(self, order, seed):
            for index in order:
                yield torch.from_numpy(self.classes[index]).to(torch.uint8)[:, None, None, None].expand(-1, 1, 1, 3)

    class Network(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            values = (inputs[:, 0, 0, 0] * 255).round()
            places = torch.arange(8.0)
            best = torch.tensor([0.0, 1.0, 3.0, 7.0])[values.long()]  # right, right, second, fifth of the nearest
            return -(places[None] - best[:, None]).abs()

    neutral = recipe().preprocessing.model_copy(update={"mean": (0, 0, 0), "std": (1, 1, 1)})
    score = evaluate(Network(), Told(), neutral, CPU)
    assert (score.images, score.top_1, score.top_5) == (4, 0.5, 1.0)


def test_training_sees_the_pixels_that_the_service_sees(data: Path) -> None:
    chosen = read_recipe(SHIPPED_RECIPE).preprocessing
    image = noise(32, 32)
    direct = normalise(np.asarray(image), chosen)
    np.testing.assert_array_equal(direct, preprocess(encode(image, "PNG"), chosen, max_pixels=10**6))


def test_the_command_reports_errors_in_one_line(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    def changed(name: str, old: str, new: str) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(SHIPPED_RECIPE.read_text().replace(old, new))
        assert new in path.read_text()
        return path

    for chosen, folder, message in (
        (SHIPPED_RECIPE, tmp_path / "nowhere", "nowhere: no such folder; --data names the folder that holds cifar-100"),
        (SHIPPED_RECIPE, tmp_path, "found "),
        (tmp_path / "nowhere.toml", data, "No such file"),
        (changed("typo", "epochs = ", "epochz = "), data, "optimisation.epochz: no such field; did you mean epochs?"),
        (changed("value", "epochs = 30", "epochs = 0"), data, "optimisation.epochs: Input should be greater"),
        (changed("toml", "epochs = 30", "epochs ="), data, "not TOML"),
        (changed("name", "aa_wide_resnet22_2", "aa_wide_resnt22_2"), data, "did you mean aa_wide_resnet22_2"),
        (changed("option", "[optimisation]", "[network.options]\ndept = 1\n[optimisation]"), data, "'dept'"),
        (changed("cycle", "momentum = 0.9", 'schedule = "one-cycle"\nmomentum = 0.0'), data, "lowers momentum by 0.1"),
        (
            changed("batch", "batch_size = 128", "batch_size = 64"),
            data,
            "expected 64 images or more for training (batch_size), found 48",
        ),
        (changed("parts", "batch_size = 128", "batch_size = 16\naccumulation = 3"), data, "does not divide by 1"),
        (
            changed("mean", "[0.5071, 0.4865, 0.4409]", "[129.3, 124.1, 112.4]"),
            data,
            "divided by 255 they are mean 0.507",
        ),
        (changed("area", "crop_padding", "resized_crop_area = [0.5, 1]\ncrop_padding"), data, "already 32x32"),
    ):
        assert command.main([str(chosen), "--data", str(folder), "--output", str(tmp_path / "run")]) == 1
        stderr = capfd.readouterr().err
        assert stderr.startswith("error: ")
        assert message in stderr
        assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize("main", [command.main, scoring.main])
def test_the_help_names_every_form_of_data(main: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "cifar-100-python/" in said
    assert "for a detector, COCO's format: instances_train.json" in said


def test_a_device_that_is_not_there_is_an_error(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert command.main([str(SHIPPED_RECIPE), "--data", str(data), "--device", "cuda"]) == 1
    assert "finds no CUDA device" in capfd.readouterr().err


def test_other_pixels_than_the_pictures_have_are_resized_as_the_service_does(data: Path, tmp_path: Path) -> None:
    larger = recipe("aa_wide_resnet10_1", epochs=1, preprocessing={"resize": 40, "crop": (36, 36)})
    with Progress(disable=True) as progress:
        train(larger, data, tmp_path, machine=CPU, stop=Stop(), progress=progress)
    assert next(opened(data, larger).test.batches([np.arange(3)], ())).shape == (3, 36, 36, 3)


def opened(folder: Path, chosen: Recipe) -> Data:
    return open_data(folder, chosen.preprocessing, area=None, device=torch.device("cpu"))
