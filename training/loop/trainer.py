"""One training run, from a recipe to weights.

epoch: batches --train_step--> weights --evaluate--> history --> last.pt, log.csv
end:   weights --> model.safetensors, history --> curves.png
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.progress import Progress

from aaserve.training.classification.distillation import OutputsInMemory
from aaserve.training.log import draw_curves, write_log
from aaserve.training.loop.checkpoint import load_state, save_state, save_weights
from aaserve.training.loop.run import Run
from aaserve.training.loop.step import batches, train_step
from aaserve.training.loop.stop import Stop
from aaserve.training.machine import Machine
from aaserve.training.recipe import CommonRecipe
from aaserve.training.task import Score, task_of

SAVE = 1  # due after a step; larger values are an exit status to stop with
ASK_EVERY = 10  # steps, if several processes have to agree on what is due
CHECK_EVERY = 50  # steps between checks of the loss; each one waits for the device


def train(
    recipe: CommonRecipe,
    data_folder: Path,
    output: Path,
    *,
    machine: Machine,
    stop: Stop,
    progress: Progress,
    resume: bool = False,
    save_every: float = float("inf"),
) -> Score | int:
    """Train to the end and return the score on the test images; or stop early and return the exit status.

    Writes into `output`: `last.pt` after each epoch, every `save_every` seconds and on stopping; `log.csv` after each
    epoch; `curves.png` on stopping and at the end; `model.safetensors` at the end.

    Raises:
        ValueError: this machine cannot do what the recipe needs, or `resume` with a different recipe or data.
        FileNotFoundError: no data, or nothing to resume.
        FileExistsError: there is a run already, and `resume` is false.
        FloatingPointError: the loss is no longer finite.
    """
    last = output / "last.pt"
    if last.exists() and not resume:
        raise FileExistsError(f"{last} exists: --resume continues it, another --output starts afresh")
    state = load_state(last) if resume else None
    if recipe.optimisation.precision == "bf16" and not machine.has_bf16:
        raise ValueError(f"precision bf16: {machine} has none; the recipe needs fp32")
    with _task(progress, "reading the pictures"):
        data = task_of(recipe).open_data(data_folder, machine.device)
    run = Run(recipe, data, machine)
    for line in data.found:
        progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
    progress.console.print(f"{recipe.network.architecture} on {machine}")
    if run.taken:
        taken = f"initial weights: {run.taken}"
        progress.console.print(taken, markup=False, highlight=False, soft_wrap=True)
    if state and run.load(state) != str(machine):
        progress.console.print(f"started on {state['machine']}: the result will differ from an uninterrupted run there")
    output.mkdir(parents=True, exist_ok=True)

    status = _compute_outputs(run, stop, progress) if run.teacher and run.teacher.settings.in_memory else 0
    if status and not state:
        _save(run, last)
    while not status and run.step < run.steps * recipe.optimisation.epochs:
        status = _train_epoch(run, last, stop, progress, save_every)
        if not status:
            _end_epoch(run, progress)
            if machine.writes:  # first the log: a checkpoint without its log line would never get one
                write_log(output / "log.csv", run.history)
            _save(run, last)
    if machine.writes and run.history:
        draw_curves(output / "curves.png", {recipe.network.architecture: run.history})
    if status:
        return status
    score = run.task.score(run, run.history[-1])
    if machine.writes:
        test = {"images": score.images, **score.row()}
        metadata = {"recipe": recipe.model_dump(mode="json"), "labels": list(data.labels), "test": test}
        save_weights(output / "model.safetensors", run.tested, metadata)
    return score


def _compute_outputs(run: Run, stop: Stop, progress: Progress) -> int:
    """Replace the pictures by the outputs of untrained layers; 0, or the exit status to stop with."""
    assert run.teacher
    run.network.eval()
    outputs = OutputsInMemory(run.data.training, run.recipe, run.teacher)
    with _task(progress, "computing outputs", outputs.batches_to_compute) as advance:
        for _ in outputs.compute(run.machine.device):
            advance()
            if status := run.machine.largest(stop.status):
                return status
    run.data = replace(run.data, training=outputs)
    return 0


def _train_epoch(run: Run, last: Path, stop: Stop, progress: Progress, save_every: float) -> int:
    """Train the rest of an epoch and return 0; or save before its end and return the exit status to stop with."""
    epoch, done = divmod(run.step, run.steps)
    run.train_mode()
    started = saved = time.monotonic()
    with _task(progress, f"epoch {epoch + 1}/{run.recipe.optimisation.epochs}", run.steps, done) as advance:
        for batch in batches(run):
            train_step(run, *batch)
            ended = run.step % run.steps == 0
            if ended or run.step % CHECK_EVERY == 0:
                run.check_loss()
            run.seconds += time.monotonic() - started
            started = time.monotonic()
            advance()
            if ended or (run.machine.processes > 1 and run.step % ASK_EVERY):
                continue
            due = run.machine.largest(stop.status or (SAVE if started - saved >= save_every else 0))
            if due:
                _save(run, last)
                started = saved = time.monotonic()
            if due > SAVE:
                return due
    return 0


def _end_epoch(run: Run, progress: Progress) -> None:
    """Evaluate, write the results, and reset the sums for the next epoch."""
    settings = run.recipe.optimisation
    epoch = run.step // run.steps
    loss = float(run.machine.sum(run.loss)) / run.machine.processes / run.steps
    score = None
    if epoch % settings.evaluate_every == 0 or epoch == settings.epochs:
        score = run.task.evaluate(run)
    run.history.append(
        {
            "epoch": epoch,
            "loss": round(loss, 4),
            **(score.row() if score else dict.fromkeys(run.task.columns())),
            "images_per_second": round(run.steps * settings.batch_size / run.seconds, 1),
            "seconds": round(run.seconds, 1),
        }
    )
    tested = f"test {score}  " if score else ""
    progress.console.print(f"epoch {epoch:3}  loss {loss:.3f}  {tested}{run.seconds:.0f} s")
    run.loss.zero_()
    run.seconds = 0.0


def _save(run: Run, path: Path) -> None:
    state = run.state()
    if run.machine.writes:
        save_state(path, state)


@contextmanager
def _task(
    progress: Progress, description: str, total: int | None = None, completed: int = 0
) -> Iterator[Callable[[], None]]:
    """Show a progress line; yields the function that advances it."""
    task = progress.add_task(description, total=total, completed=completed)
    try:
        yield lambda: progress.advance(task)
    finally:
        progress.remove_task(task)
