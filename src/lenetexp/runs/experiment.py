"""One run, from its settings to its complete record: joins the packages below."""

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from math import ceil, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lenetexp.cli import require_empty
from lenetexp.config.schema import Dataset, RunConfig
from lenetexp.datasets.load import Data, load
from lenetexp.errors import UserError, one_line
from lenetexp.reporting.run_summary import end_of_run
from lenetexp.reporting.terminal import Progress, try_draw
from lenetexp.runs import resume
from lenetexp.runs.interrupt import noted
from lenetexp.runs.record import RunContext, closing_record, open_record, recorded_config
from lenetexp.tracking.journal import STOP, Journal, Mark
from lenetexp.tracking.names import BEST_ACCURACY, BEST_EPOCH, BEST_LOSS, SERIES, TEST_ACCURACY, TEST_LOSS, File, Tag
from lenetexp.tracking.outbox import Outbox
from lenetexp.tracking.query import RecordedRun
from lenetexp.tracking.recorder import save_model
from lenetexp.tracking.store import open_store
from lenetexp.training import checkpoint
from lenetexp.training.device import pick
from lenetexp.training.evaluate import Diverged, Scores, Totals, evaluate
from lenetexp.training.loop import Recipe, fit
from lenetexp.training.state import EpochRecord, set_up


def run(settings: RunConfig, config: dict[str, Any], folder: Path) -> float:
    """Trains one net as `settings` say and records everything in `folder`, an empty one, and in MLflow.

    `config` is what the settings were checked from. A resumed run keeps its own folder if that is on this machine.
    Returns the best validation accuracy, in [0, 1]; NaN if no epoch was finished. Raises `UserError` for a mistake that
    the user can fix, mostly before the MLflow run is created, and `Interrupted` if a signal came.
    """
    began = time.perf_counter()
    plan = resume.find(settings, config, folder) if settings.resume else None
    if plan is None:
        folder.mkdir(parents=True, exist_ok=True)
        require_empty(folder)
    else:
        settings, config = plan.settings, plan.config
        if plan.previous.status == "FINISHED" and not plan.extends:
            return _already_finished(plan.previous)
    device = pick(settings.device)
    data = _load_once(settings.dataset, device)
    training = set_up(settings, data, device)
    store = None if settings.tracking.offline else open_store(settings.tracking)
    if plan is not None:
        folder = plan.restore(training, data.digest, folder)
    resumes = plan.previous.run_id if plan else None
    context = RunContext(settings, recorded_config(config), folder, data, training, resumes)
    with noted() as stop_if_asked, closing(Journal(folder)) as events:
        outbox = open_record(context, events, store)
        with closing_record(outbox, context, stop_if_asked):
            training_began = time.perf_counter()
            diverged = _train(context, outbox, stop_if_asked)
            seconds = time.perf_counter() - training_began
            test = _evaluate_best(context, outbox)
            if diverged is None:  # a diverged run is complete
                stop_if_asked()
    best = training.best
    print(f"Finished in {time.perf_counter() - began:.1f} s, of which training {seconds:.1f} s")
    print(end_of_run(settings, training.history, best, test, diverged, folder, outbox.recorder))
    return best.val_accuracy if best else nan


def _already_finished(run: RecordedRun) -> float:
    best, test = run.metrics.get(BEST_ACCURACY, nan), run.metrics.get(TEST_ACCURACY, nan)
    print(
        f"Run {run.run_id} of this config is finished already: validation {best:.2%}, test {test:.2%}. "
        "It is not trained again; without resume a new run begins."
    )
    return best


_loaded: dict[str, Data] = {}  # the last data, by what they were loaded with


def _load_once(dataset: Dataset, device: torch.device) -> Data:
    """The images; a worker process that runs several jobs of a sweep loads them once."""
    key = repr((dataset.model_dump(exclude_unset=True), device))
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load(dataset, device)
    return _loaded[key]


def _train(context: RunContext, outbox: Outbox, stop_if_asked: Callable[[], None]) -> Diverged | None:
    """Runs the loop; records, saves and shows every epoch. Returns how it diverged, if it did."""
    settings, training, folder = context.settings, context.training, context.folder
    if training.best_weights is not None:  # a resumed run's; its best.pt may be on another machine
        checkpoint.save(folder / File.BEST, training.best_weights)
    for record in training.history:  # a killed command may not have written its last one
        outbox.epoch(record.epoch, _metrics(record))
    recipe = Recipe(
        settings.epochs, settings.batch_size, settings.seed,
        settings.dataset.augment, settings.clip_norm, settings.patience,
    )  # fmt: skip
    steps = ceil(len(context.data.train) / settings.batch_size)
    progress = Progress(settings.epochs, steps, done=training.epochs_done)

    def on_batch(totals: Totals) -> None:
        progress.batch(totals)
        stop_if_asked()

    try:
        for record in fit(training, context.data, recipe, on_batch):
            outbox.epoch(record.epoch, _metrics(record))
            if record.improved and training.best_weights is not None:
                checkpoint.save(folder / File.BEST, training.best_weights)
            checkpoint.save(folder / File.LAST, training.state_dict())
            progress.epoch(record)
            if (folder / STOP).exists():
                outbox.tag(Tag.ENDING, "pruned")
                outbox.tag(Tag.REASON, f"pruned after epoch {record.epoch}")
                break
        stop_if_asked()
    except Diverged as diverged:
        outbox.tag(Tag.ENDING, "diverged")
        outbox.tag(Tag.REASON, str(diverged))
        return diverged
    finally:
        progress.bar.close()
    return None


def _metrics(record: EpochRecord) -> dict[str, float]:
    return {name: getattr(record, name.replace("/", "_")) for name in SERIES}


def _evaluate_best(context: RunContext, outbox: Outbox) -> Scores | None:
    """Scores the best weights on the test images, draws the pictures, saves the net for MLflow."""
    data, training, folder = context.data, context.training, context.folder
    model, best = training.model, training.best
    if best is None or training.best_weights is None:
        return None
    model.load_state_dict(training.best_weights)
    test = evaluate(model, data.test)
    outbox.result(
        {
            BEST_EPOCH: best.epoch,
            BEST_ACCURACY: best.val_accuracy,
            BEST_LOSS: best.val_loss,
            TEST_LOSS: test.loss,
            TEST_ACCURACY: test.accuracy,
        }
    )

    def draw() -> None:
        from lenetexp.reporting.run_figures import draw_run  # half a second that training need not wait for

        draw_run(model, data, test, training.history, best, folder / File.FIGURES)

    try_draw(draw)
    try:
        model.cpu().to(memory_format=torch.contiguous_format).eval()
        shutil.rmtree(folder / File.MODEL, ignore_errors=True)  # of an interrupted command
        save_model(model, np.zeros((2, *data.image_shape), dtype=np.float32), folder / File.MODEL)
        outbox.add(Mark(event="model"))
    except UserError:
        raise
    except Exception as error:  # torch.export cannot trace every custom net
        reason = one_line(error)[:200]
        outbox.tag(Tag.NO_MODEL, reason)
        print(f"note: the net could not be saved in MLflow's form ({reason}); best.pt is complete")
    return test
