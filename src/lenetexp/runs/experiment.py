"""One run, from its settings to its complete record: joins the packages below."""

import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import ceil, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lenetexp.cli import require_empty
from lenetexp.config.identity import flatten_settings, format_run_name, format_swept, hash_config
from lenetexp.config.schema import RunConfig
from lenetexp.config.targets import ClassicalModel
from lenetexp.datasets.splits import Data, load_data_once
from lenetexp.errors import UserError, format_error, pluralize, wrap_text
from lenetexp.reporting.run_summary import describe_end, describe_start
from lenetexp.reporting.terminal import Progress, format_path, print_line, try_draw
from lenetexp.runs import provenance, resume
from lenetexp.runs.batch_diagnostics import BatchDiagnostics
from lenetexp.runs.interrupt import Interruption, defer_signals
from lenetexp.tracking.journal import STOP, Journal, Mark, Start
from lenetexp.tracking.names import (
    BEST_ACCURACY,
    BEST_EPOCH,
    BEST_LOSS,
    INSIDE,
    SERIES,
    TEST_ACCURACY,
    TEST_LOSS,
    File,
    Tag,
)  # fmt: skip
from lenetexp.tracking.outbox import LITTLE_PATIENCE, Outbox, open_outbox
from lenetexp.tracking.process import call
from lenetexp.tracking.recorder import build_origin_tags, save_model
from lenetexp.tracking.store import Store, open_store
from lenetexp.training.diagnostics import measure_diagnostics
from lenetexp.training.evaluate import Diverged, Scores, Totals, evaluate
from lenetexp.training.loop import Recipe, fit
from lenetexp.training.setup import describe_device, pick_device, set_up
from lenetexp.training.state import EpochRecord, Training, save_checkpoint
from lenetexp.training.verdict import DIVERGED, LEARNED, Verdict, judge_training


def run(settings: RunConfig, config: dict[str, Any], folder: Path) -> float:
    """Train one net and record everything.

    A resumed run keeps its own folder if that is on this machine.

    Args:
        settings: The validated settings.
        config: What the settings were validated from.
        folder: An empty folder.

    Returns:
        The best validation accuracy in [0, 1]; NaN if no epoch was finished.

    Raises:
        UserError: Something that the user can fix, mostly before the MLflow run is created.
        Interruption: A signal came.
    """
    began = time.perf_counter()
    plan = resume.find_previous_run(settings, config, folder) if settings.resume else None
    if plan is None:
        folder.mkdir(parents=True, exist_ok=True)
        require_empty(folder)
    else:
        settings, config = plan.settings, plan.config
        if plan.previous.status == "FINISHED" and not plan.extends:
            accuracy, tested = (plan.previous.metrics.get(name, nan) for name in (BEST_ACCURACY, TEST_ACCURACY))
            sentence = f"is finished already: validation {accuracy:.2%}, test {tested:.2%}. It is not trained again"
            print(wrap_text(f"Run {plan.previous.run_id} of this config {sentence}; without resume a new run begins."))
            return accuracy
    device = pick_device(settings.device, takes_steps=not isinstance(settings.model, ClassicalModel))
    data = load_data_once(settings.dataset, device)
    training = set_up(settings, data, device)
    store = None if settings.tracking.offline else call(open_store, settings.tracking)
    if plan is not None:
        folder = plan.restore(training, data.digest, folder)
    resumes = plan.previous.run_id if plan else None
    current = Run(settings, provenance.clean_config(config), folder, data, training, resumes)
    with defer_signals() as stop_if_asked, closing(Journal(folder)) as events:
        outbox = current.open_record(events, store)
        with current.close_record(outbox, stop_if_asked):
            training_began = time.perf_counter()
            verdict = current.train(outbox, stop_if_asked)
            seconds = time.perf_counter() - training_began
            test = current.evaluate_best(outbox)
            if verdict is None or verdict.ending != DIVERGED:  # a diverged run is complete
                stop_if_asked()
    best = training.best
    print(f"Finished in {time.perf_counter() - began:.1f} s, of which training {seconds:.1f} s")
    print(describe_end(settings, training.history, best, test, verdict, folder, outbox.recorder))
    return best.val_accuracy if best else nan


@dataclass(frozen=True)
class Run:
    """One run with everything that it needs."""

    settings: RunConfig
    config: dict[str, Any]  # as it is recorded
    folder: Path
    data: Data
    training: Training
    resumes: str | None  # id of the run whose epochs it begins with

    def open_record(self, events: Journal, store: Store | None) -> Outbox:
        """Print what is about to run, and open its record.

        Raises:
            UserError: The store does not accept it.
        """
        settings, data, folder = self.settings, self.data, self.folder
        device = describe_device(data.train.images.device)
        head = describe_start(settings, data, self.training, device, folder, self.resumes)
        if isinstance(settings.resume, str):  # they are the run's own, which nobody has seen yet
            print(wrap_text(settings.summary))
        print(head, flush=True)
        origin = {**build_origin_tags(folder), Tag.DEVICE: device}
        root = settings.dataset.root
        facts = {**data.build_facts(), **provenance.describe_root(root, folder)}
        if events.starts:
            if provenance.read_dataset(folder) is None:  # it was killed before it wrote that
                provenance.write_provenance(folder, self.config, facts)
            provenance.write_resume_command(folder)
            events.add(Start(event="resumed", tags=origin, epochs=settings.epochs))
            return open_outbox(store, events, print_line)
        # A swept group, as optimizer=sgd,adam, is no leaf of the config; the table of runs shows it as well.
        swept = settings.job.values if settings.job else {}
        dataset_facts = {
            **origin,
            Tag.PARENT: settings.job.parent if settings.job else None,
            **{f"{Tag.SWEPT}{key}": value for key, value in swept.items()},
            Tag.CONTINUES: self.resumes,
            Tag.JOURNAL: secrets.token_hex(16),
            Tag.CONFIG_HASH: hash_config(self.config),
            Tag.DESCRIPTION: f"```\n{settings.summary}\n{head}\n```",
            Tag.IMAGES: json.dumps(facts["images"]),
            Tag.COMMIT: provenance.write_provenance(folder, self.config, facts),
        }
        dataset = {
            "name": data.name,
            "digest": data.digest,
            "source": json.dumps({"root": root or settings.dataset.target}),
            "profile": json.dumps(facts["images"]),
        }
        name = self.label or folder.name
        tags = {key: value for key, value in dataset_facts.items() if value is not None}
        params = {**swept, **dict(flatten_settings(self.config))}
        events.add(Start(name=name, tags=tags, params=params, dataset=dataset, epochs=settings.epochs, swept=swept))
        return open_outbox(store, events, print_line)

    @property
    def label(self) -> str:
        """The settings on this run's command line, in short; "" if there are none."""
        swept = self.settings.job.values if self.settings.job else {}
        return format_swept(swept) or format_run_name(self.settings.overrides)

    @contextmanager
    def close_record(self, outbox: Outbox, stop_if_asked: Callable[[], None]) -> Iterator[None]:
        """Send the folder and close the record, however the body ends."""
        try:
            yield
        except (Interruption, KeyboardInterrupt) as stop:
            # A second signal exits at once.
            outbox.finish("KILLED", patience=LITTLE_PATIENCE if isinstance(stop, Interruption) else 0.0)
            reason = f"{self.training.epochs_done} of {pluralize(self.settings.epochs, 'epoch')}"
            print(f"Stopped; {format_path(self.folder)} keeps {reason}.")
            if self.settings.job is None:
                print(f"To resume: {provenance.format_resume_command(outbox.journal.run_id)}", flush=True)
            raise
        except Exception as error:
            outbox.finish("FAILED", f"{type(error).__name__}: {format_error(error)[:300]}")
            raise
        is_sent = False
        try:
            is_sent = outbox.finish("FINISHED", stop_if_asked=stop_if_asked)
        except UserError as error:  # the disk is full
            is_sent = outbox.finish("FAILED", str(error))
            raise
        finally:
            if not is_sent and not self.settings.tracking.offline:
                command = f"python scripts/sync.py folder={format_path(self.folder)}"
                print(f"note: MLflow is still missing something; when it answers: {command}", flush=True)
        if outbox.refused:
            raise UserError(outbox.refused)

    def train(self, outbox: Outbox, stop_if_asked: Callable[[], None]) -> Verdict | None:
        """Run the loop, and record, save and show every epoch.

        Returns:
            How training ended; None if it was pruned.
        """
        settings, training, folder = self.settings, self.training, self.folder
        if training.best_weights is not None:  # a resumed run's; its best.pt may be on another machine
            save_checkpoint(folder / File.BEST, training.best_weights)
        for record in training.history:  # a killed command may not have written its last one
            outbox.log_epoch(record.epoch, _collect_metrics(record))
        recipe = Recipe(
            settings.epochs, settings.batch_size, settings.seed,
            settings.dataset.augment, settings.clip_norm, settings.patience, settings.diagnostics.every is not None,
        )  # fmt: skip
        steps = ceil(len(self.data.train) / settings.batch_size)
        progress = Progress(settings.epochs, steps, done=training.epochs_done)
        closeup = BatchDiagnostics(folder, training.epochs_done) if settings.diagnostics.every == "batch" else None

        def on_batch(totals: Totals) -> None:
            progress.advance(totals)
            if closeup is not None:
                inside = measure_diagnostics(training, self.data.train, settings.clip_norm)
                closeup.add(totals.epoch, totals.batches, inside)
            stop_if_asked()

        diverged = None
        try:
            for record in fit(training, self.data, recipe, on_batch):
                outbox.log_epoch(record.epoch, _collect_metrics(record))
                if record.improved and training.best_weights is not None:
                    save_checkpoint(folder / File.BEST, training.best_weights)
                if closeup is not None:  # before the checkpoint: an epoch that is trained again replaces its rows
                    closeup.write()
                save_checkpoint(folder / File.LAST, training.state_dict())
                progress.print_epoch(record)
                if (folder / STOP).exists():
                    outbox.set_tag(Tag.ENDING, "pruned")
                    outbox.set_tag(Tag.REASON, f"pruned after epoch {record.epoch}")
                    return None
            stop_if_asked()
        except Diverged as error:
            diverged = error
        finally:
            progress.bar.close()
        verdict = judge_training(training.history, len(self.data.classes), len(self.data.val), diverged)
        outbox.set_tag(Tag.VERDICT, verdict.text)
        if verdict.ending != LEARNED:
            outbox.set_tag(Tag.ENDING, verdict.ending)
            outbox.set_tag(Tag.REASON, verdict.explanation)
        return verdict

    def evaluate_best(self, outbox: Outbox) -> Scores | None:
        """Score the best weights on the test images, save the predictions, draw the pictures, save the net."""
        data, training, folder = self.data, self.training, self.folder
        model, best = training.model, training.best
        if best is None or training.best_weights is None:
            return None
        model.load_state_dict(training.best_weights)
        test = evaluate(model, data.test, training.loss)
        test.save(folder / File.PREDICTIONS)
        outbox.log_result(
            {
                BEST_EPOCH: best.epoch,
                BEST_ACCURACY: best.val_accuracy,
                BEST_LOSS: best.val_loss,
                TEST_LOSS: test.loss,
                TEST_ACCURACY: test.accuracy,
            }
        )

        def draw() -> None:
            """Draw all pictures of this run."""
            from lenetexp.reporting.animation import draw_learning
            from lenetexp.reporting.run_figures import draw_run  # half a second that training need not wait for

            is_measured = self.settings.diagnostics.every == "batch"
            steps = BatchDiagnostics(folder, training.epochs_done).rows if is_measured else []
            draw_run(model, data, test, training.history, best, steps, self.label, folder / File.FIGURES)
            draw_learning(model, data, training.frames, training.history, folder / File.FIGURES)

        try_draw(draw)
        if self.settings.tracking.model:
            self.save_for_mlflow(outbox)
        return test

    def save_for_mlflow(self, outbox: Outbox) -> None:
        """Save the net with its best weights as the run's logged model, or print a note if it cannot be saved."""
        model, data, folder = self.training.model, self.data, self.folder
        try:
            model.cpu().to(memory_format=torch.contiguous_format).eval()
            shutil.rmtree(folder / File.MODEL, ignore_errors=True)  # of an interrupted command
            save_model(model, np.zeros((2, *data.image_shape), dtype=np.float32), folder / File.MODEL)
            outbox.add(Mark(event="model"))
        except UserError:
            raise
        except Exception as error:  # torch.export cannot trace every custom net
            reason = format_error(error)[:200]
            outbox.set_tag(Tag.NO_MODEL, reason)
            print(f"note: the net could not be saved in MLflow's form ({reason}); best.pt is complete")


def _collect_metrics(record: EpochRecord) -> dict[str, float]:
    series = {name: getattr(record, name.replace("/", "_")) for name in SERIES}
    return {**series, **{f"{INSIDE}{key}": value for key, value in record.inside.items()}}
