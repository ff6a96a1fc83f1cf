"""A recipe to the learning rates at which it learns: a table of numbers, a picture, a suggestion."""

import csv
import shlex
from dataclasses import astuple
from pathlib import Path
from typing import Any

from lenetexp.config.commands import FindLrConfig
from lenetexp.datasets.load import load
from lenetexp.errors import UserError, wrapped
from lenetexp.models.classical import Classical
from lenetexp.reporting.terminal import progress_bar, shown, try_draw
from lenetexp.training.loop import Recipe
from lenetexp.training.lr_range import Step, lr_range, suggested
from lenetexp.training.setup import pick_device, set_up


def find_lr(settings: FindLrConfig, config: dict[str, Any], folder: Path) -> None:
    """Runs the test and prints what to try; writes lr_range.csv and lr_range.png into `folder`."""
    if settings.from_lr >= settings.to_lr:
        raise UserError(f"from_lr={settings.from_lr}: must be below to_lr={settings.to_lr}")
    device = pick_device(settings.device)
    data = load(settings.dataset, device)
    training = set_up(settings, data, device)
    if isinstance(training.model, Classical):
        raise UserError(f"model: {settings.model.name} is fitted at once; it has no learning rate to find")
    recipe = Recipe(1, settings.batch_size, settings.seed, settings.dataset.augment, settings.clip_norm)
    with progress_bar(settings.steps) as bar:

        def on_step(step: Step) -> None:
            bar.update()
            bar.set_description_str(f"lr {step.lr:.1e}  loss {step.smooth:.3f}")

        steps = lr_range(training, data.train, recipe, settings.from_lr, settings.to_lr, settings.steps, on_step)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lr_range.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lr", "loss", "smoothed_loss"])
        writer.writerows(map(astuple, steps))
    found = suggested(steps)
    title = f"{type(training.model).__name__} on {data.name}, {training.optimizer.__class__.__name__}"

    def draw() -> None:
        from lenetexp.reporting.range_figure import draw_range  # imports matplotlib

        draw_range([step.lr for step in steps], [step.loss for step in steps], [step.smooth for step in steps],
                   found, title, folder / "lr_range.png")  # fmt: skip

    drawn = try_draw(draw)
    if found is None:
        print(wrapped("The loss did not fall at any rate: try another range, more steps, or another recipe."))
    else:
        low, best, high = found
        print(wrapped(f"The loss falls from lr={low:.2g} on, fastest at {best:.2g}, up to {high:.2g}."))
        own = tuple(f"{key}=" for key in ("from_lr", "to_lr", "steps", "optimizer.lr"))
        recipe_given = shlex.join(word for word in settings.given if not word.startswith(own))
        sweep = f"optimizer.lr={low:.2g},{(low * high) ** 0.5:.2g},{high:.2g}"
        print(
            "  try      " + " ".join(filter(None, ["python scripts/run.py", recipe_given, f"optimizer.lr={best:.2g}"]))
        )
        print("  a sweep  " + " ".join(filter(None, ["python scripts/run.py -m", recipe_given, sweep])))
    print(f"  numbers  {shown(folder / 'lr_range.csv')}")
    if drawn:
        print(f"  picture  {shown(folder / 'lr_range.png')}")
