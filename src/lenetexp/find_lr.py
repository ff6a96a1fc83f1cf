"""scripts/find_lr.py: the learning rates at which a recipe learns, as a table, a picture and a suggestion."""

import csv
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from lenetexp.config.commands import FindLrConfig
from lenetexp.datasets.splits import load_data
from lenetexp.errors import UserError, wrap_text
from lenetexp.models.classical import Classical
from lenetexp.reporting.terminal import format_path, make_progress_bar, try_draw
from lenetexp.training.loop import Recipe
from lenetexp.training.lr_range import Step, Suggestion, has_risen, run_range_test, suggest_rates
from lenetexp.training.setup import pick_device, set_up

WITHOUT_EFFECT = ("epochs", "patience", "resume")  # settings of runs, of which this is none


def find_lr(settings: FindLrConfig, config: dict[str, Any], folder: Path) -> None:
    """Run the test and print what to try. Write lr_range.csv and lr_range.png into `folder`."""
    for word in settings.overrides:
        if word.partition("=")[0].lstrip("+") in WITHOUT_EFFECT:
            raise UserError(f"{word}: has no effect here, where steps= says how long to train; leave it out")
    if settings.from_lr >= settings.to_lr:
        raise UserError(f"from_lr={settings.from_lr}: must be below to_lr={settings.to_lr}")
    device = pick_device(settings.device)
    data = load_data(settings.dataset, device)
    training = set_up(settings, data, device)
    if isinstance(training.model, Classical):
        raise UserError(f"model: {settings.model.name} is fitted at once; it has no learning rate to find")
    recipe = Recipe(1, settings.batch_size, settings.seed, settings.dataset.augment, settings.clip_norm)
    with make_progress_bar(settings.steps) as bar:

        def on_step(step: Step) -> None:
            bar.update()
            bar.set_description_str(f"lr {step.lr:.1e}  loss {step.smooth:.3f}")

        steps = run_range_test(training, data.train, recipe, settings.from_lr, settings.to_lr, settings.steps, on_step)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lr_range.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lr", "loss", "smoothed_loss"])
        writer.writerows(map(astuple, steps))
    suggestion = suggest_rates(steps)
    title = f"{type(training.model).__name__} on {data.name}, {training.optimizer.__class__.__name__}"

    def draw() -> None:
        from lenetexp.reporting.range_figure import draw_range  # imports matplotlib

        rates = suggestion.rates if suggestion else None
        draw_range([step.lr for step in steps], [step.loss for step in steps], [step.smooth for step in steps],
                   rates, title, folder / "lr_range.png")  # fmt: skip

    is_drawn = try_draw(draw)
    print("\n".join(advise(settings, steps, suggestion)))
    print(f"  numbers  {format_path(folder / 'lr_range.csv')}")
    if is_drawn:
        print(f"  picture  {format_path(folder / 'lr_range.png')}")


def advise(settings: FindLrConfig, steps: Sequence[Step], suggestion: Suggestion | None) -> Iterator[str]:
    """Describe what the test showed, and which commands follow."""
    if suggestion is None:
        yield wrap_text(
            "The loss did not fall clearly: try more steps, larger batches, another range or another recipe."
        )
        return
    has_exploded = len(steps) < settings.steps
    if not has_exploded and not has_risen(steps):
        yield wrap_text(f"The loss does not rise up to to_lr={settings.to_lr:g}: give a higher one.")
        return
    end = f"{'explodes at' if has_exploded else 'does not explode up to'} {steps[-1].lr:.2g}"
    yield wrap_text(
        f"The loss is lowest at lr={suggestion.lowest:.2g} and {end}. Runs are best a little below the lowest."
    )
    own = tuple(f"{key}=" for key in ("from_lr", "to_lr", "steps", "optimizer.lr"))
    recipe = shlex.join(word for word in settings.overrides if not word.startswith(own))
    sweep = "optimizer.lr=" + ",".join(f"{rate:.2g}" for rate in suggestion.rates)
    for label, *words in (
        ("  try      python scripts/run.py", recipe, f"optimizer.lr={suggestion.rates[1]:.2g}"),
        ("  a sweep  python scripts/run.py -m", recipe, sweep),
    ):
        yield " ".join(filter(None, [label, *words]))
