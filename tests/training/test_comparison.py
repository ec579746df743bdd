"""Networks at equal budget, on noise."""

import json
from pathlib import Path

import pytest

from aaserve.training.recipe import read_recipe
from benchmarks import comparison
from tests.training.tiny import SHIPPED_RECIPE

NETWORK = "aa_wide_resnet10_1,position=none"


def test_a_comparison_trains_serves_and_goes_on_where_it_was_stopped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    recipe = tmp_path / "recipe.toml"
    text = SHIPPED_RECIPE.read_text().replace("epochs = 30", "epochs = 1")
    recipe.write_text(text.replace("batch_size = 128", "batch_size = 16"))
    output = tmp_path / "results" / "comparison.json"
    given = ["comparison", recipe, "--data", data, "--runs", tmp_path / "runs", "--output", output]
    given += ["--networks", NETWORK, "--seeds", "3", "4"]

    def compare(*more: str) -> int:
        monkeypatch.setattr("sys.argv", [str(argument) for argument in (*given, *more)])
        return comparison.main()

    assert compare("--max-minutes", "1e-6") == 75
    assert not output.exists()
    monkeypatch.setattr(comparison, "SERVED_ROUNDS", 1)
    monkeypatch.setattr(comparison, "TRAINED_ROUNDS", 1)
    assert compare() == 0
    row = json.loads(output.read_text())["networks"][NETWORK]
    assert [run["seed"] for run in row["runs"]] == [3, 4]
    assert row["top_1"]["mean"] == pytest.approx(sum(run["top_1"] for run in row["runs"]) / 2)
    assert row["parameters"] == 82420
    assert row["trained_images_per_second"] > 0
    assert row["served_images_per_second"].keys() == {"batch 1", "batch 8"}
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "| `aa_wide_resnet10_1,position=none` | 82,420 | 0.025 | 2 |" in capfd.readouterr().out

    with monkeypatch.context() as again:
        again.setattr(comparison, "train", lambda *arguments, **options: pytest.fail("trained again"))
        again.setattr(comparison, "trained_speeds", lambda *arguments: {NETWORK: 1.0})
        again.setattr(comparison, "served_speeds", lambda *arguments: {NETWORK: row["served_images_per_second"]})
        assert compare() == 0
        assert compare("--finished", "--seeds", "4", "5") == 0
        [run] = json.loads(output.read_text())["networks"][NETWORK]["runs"]
        assert run["seed"] == 4
        assert compare("--finished", "--seeds", "5") == 1
        assert f"{NETWORK}: no run is finished" in capfd.readouterr().err
    recipe.write_text(recipe.read_text().replace("label_smoothing = 0.1", "label_smoothing = 0.2"))
    assert compare() == 1
    assert "trained by another recipe" in capfd.readouterr().err


def test_the_recipe_changes_in_network_and_seed_alone() -> None:
    common = read_recipe(SHIPPED_RECIPE)
    one = comparison.entrant("aa_wide_resnet10_1,position=none,kappa=0.25").recipe(common, 7)
    assert one.network.options == {"position": "none", "kappa": 0.25}
    assert one.optimisation.seed == 7
    back = one.model_copy(
        update={"network": common.network, "optimisation": one.optimisation.model_copy(update={"seed": 0})}
    )
    assert back == common


def test_mean_and_spread_are_those_of_the_runs() -> None:
    logs = {
        seed: [
            {"epoch": 1, "loss": 2.0, "top_1": None, "top_5": None},
            {"epoch": 2, "loss": 1.0, "top_1": top_1, "top_5": 0.9},
        ]
        for seed, top_1 in ((0, 0.5), (1, 0.6), (2, 0.7))
    }
    found = comparison.summary(logs)
    assert found["top_1"] == {"mean": pytest.approx(0.6), "spread": pytest.approx(0.1)}
    assert [row["top_1"] for row in comparison.mean_log(logs)] == [None, pytest.approx(0.6)]
    assert comparison.summary({0: logs[0]})["top_1"]["spread"] is None
