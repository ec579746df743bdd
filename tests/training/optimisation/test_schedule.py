"""Learning rate and momentum over a run."""

import pytest
import torch

from aaserve.training.optimisation.optimiser import create_optimiser
from aaserve.training.optimisation.schedule import learning_rate, momentum, set_schedule
from tests.training.tiny import recipe


def settings(**changes):
    return recipe(max_learning_rate=2.0, warm_up_fraction=0.2, momentum=0.9, **changes).optimisation


def test_cosine_rises_in_a_line_and_falls_along_half_a_cosine() -> None:
    rates = [learning_rate(done, settings()) for done in (0, 0.1, 0.2, 0.4, 0.6, 1)]
    assert rates == pytest.approx([0, 1, 2, 2 * (1 + 0.5**0.5) / 2, 1, 0], abs=1e-12)
    assert {momentum(done, settings()) for done in (0, 0.1, 0.6)} == {0.9}


def test_one_cycle_is_pytorchs() -> None:
    """torch.optim.lr_scheduler.OneCycleLR with its defaults, but for its last learning rate of a 250,000th."""
    chosen = settings(schedule="one-cycle").model_copy(update={"momentum": 0.95, "warm_up_fraction": 0.3})
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2.0, total_steps=101)
    for step in range(100):
        # PyTorch's first phase ends a step early: it counts the instants between 101 steps.
        peak = 0.3 * 101 - 1
        done = step / peak * 0.3 if step < peak else 0.3 + (step - peak) / (100 - peak) * 0.7
        assert learning_rate(done, chosen) == pytest.approx(theirs.get_last_lr()[0], abs=2e-4)
        assert momentum(done, chosen) == pytest.approx(optimiser.param_groups[0]["momentum"], abs=1e-6)
        optimiser.step()
        theirs.step()


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(0, recipe(max_learning_rate=2.0, warm_up_fraction=0.0).optimisation) == 2.0


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_schedule_reaches_the_optimiser_and_kernels_alone_decay(optimiser: str) -> None:
    chosen = settings(optimiser=optimiser, schedule="one-cycle", weight_decay=0.5)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    network.register_parameter("key_rel_h", torch.nn.Parameter(torch.zeros(3, 3)))
    made = create_optimiser(network, chosen)
    set_schedule(made, 0.2, chosen)
    for group in made.param_groups:
        assert group["lr"] == 2.0
        assert group.get("momentum", group.get("betas", [0])[0]) == pytest.approx(0.8)
    decays = {parameter: group["weight_decay"] for group in made.param_groups for parameter in group["params"]}
    assert {name: decays[parameter] for name, parameter in network.named_parameters()} == {
        "0.weight": 0.5,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "key_rel_h": 0.0,
    }
