"""Read runs from the store. Whatever the store raises is a `UserError`."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from lenetexp.errors import UserError
from lenetexp.tracking import journal
from lenetexp.tracking.journal import JournalReader, Result, is_in_use
from lenetexp.tracking.names import BEST_ACCURACY, BEST_LOSS, HOST, File, Tag
from lenetexp.tracking.store import Store, explain_failure

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

RUNS = "latest:3, all, [ID,ID] or a filter that MLflow reads"
NEWEST_FIRST = ["attributes.start_time DESC"]
BEST_FIRST = [f"metrics.`{BEST_ACCURACY}` DESC", f"metrics.`{BEST_LOSS}` ASC"]
WITH_WEIGHTS = f"attributes.status = 'FINISHED' and metrics.`{BEST_ACCURACY}` >= 0"


@dataclass(frozen=True)
class RecordedRun:
    """A run of any command: in a store, or, recorded offline, only in its folder on this machine."""

    run_id: str  # MLflow's; of a run recorded offline, its folder
    name: str
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    metrics: dict[str, float]  # the last value of each
    params: dict[str, str]
    tags: dict[str, str]
    started: int  # milliseconds since 1970
    ended: int | None = None
    dataset: str = ""  # its name
    deleted: bool = False
    store: Store | None = None
    digest: str = ""  # of the dataset's images and labels
    profile: str = ""  # how many images each split has, as JSON; of older runs that share images, the first one's
    experiment_id: str = ""

    @property
    def config_hash(self) -> str:
        """The hash that runs of the same experiment share; "" if this is not a run of lenetexp."""
        return self.tags.get(Tag.CONFIG_HASH, "")

    @property
    def is_sweep(self) -> bool:
        return Tag.SWEEP in self.tags

    @property
    def ending(self) -> str:
        return self.tags.get(Tag.ENDING, "")

    @property
    def is_result(self) -> bool:
        """Whether it trained to its end or until it diverged. A pruned run did not."""
        return bool(self.config_hash) and self.status == "FINISHED" and self.ending != "pruned"

    @property
    def images(self) -> dict[str, int]:
        """The number of images in its splits train, val and test; {} if unknown."""
        with suppress(ValueError):
            counts = json.loads(self.tags.get(Tag.IMAGES, self.profile))
            return counts if isinstance(counts, dict) else {}
        return {}

    @property
    def seconds(self) -> float:
        """Seconds from its start to its end, without the time between its commands; NaN while it runs."""
        with suppress(KeyError, ValueError):
            return float(self.tags[Tag.SECONDS])
        return (self.ended - self.started) / 1000 if self.ended else nan

    @property
    def is_here(self) -> bool:
        return self.tags.get(Tag.HOST) == HOST and Tag.FOLDER in self.tags

    @property
    def is_running_here(self) -> bool:
        return self.status == "RUNNING" and self.is_here and is_in_use(self.tags[Tag.FOLDER])

    @property
    def was_killed_here(self) -> bool:
        """Whether it is marked as running here, but its process is gone."""
        return self.status == "RUNNING" and self.is_here and not self.is_running_here

    @cached_property
    def folder(self) -> Path | None:
        """Its own folder, if that is on this machine: recorded here, or brought here with the store."""
        if Tag.FOLDER not in self.tags:
            return None
        # Another machine may have had a folder of this name.
        events = JournalReader(Path(self.tags[Tag.FOLDER]))
        # A run killed before its id was written down is known by its journal's key.
        keys = [start.tags.get(Tag.JOURNAL) for start in events.starts]
        return events.folder if events.run_id == self.run_id or self.tags.get(Tag.JOURNAL, "") in keys else None

    @property
    def folder_to_read(self) -> Path | None:
        """Its `folder`, or None if the journal there is damaged: the store has the same files."""
        with suppress(UserError):
            return self.folder
        return None

    def get_history(self, key: str) -> "list[Metric]":
        """Return all values of a metric, in the order of their steps."""
        assert self.store is not None
        return sorted(self.store.client.get_metric_history(self.run_id, key), key=lambda metric: metric.step)

    def list_artifacts(self) -> list[str]:
        """List the paths of its artifacts: at the top, in checkpoints/ and in reproduce/."""
        assert self.store is not None
        places, list_in = (None, File.CHECKPOINTS, File.REPRODUCE), self.store.client.list_artifacts
        return [entry.path for place in places for entry in list_in(self.run_id, place)]

    def download(self, folder: Path, *paths: str) -> list[Path]:
        """Copy files of the run to the same paths in `folder`.

        Raises:
            UserError: One is missing.
        """
        targets, own_folder = [folder / path for path in paths], self.folder_to_read
        for path, target in zip(paths, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            if own_folder is not None and (own_folder / path).is_file():
                shutil.copyfile(own_folder / path, target)
            else:
                self._download(path, target)
        return targets

    def _download(self, path: str, target: Path) -> None:
        assert self.store is not None
        try:
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # MLflow drops a file's folders
                Path(self.store.client.download_artifacts(self.run_id, path, folder)).replace(target)
        except UserError as error:
            if BEST_ACCURACY not in self.metrics:
                advice = "a run that ended before its first epoch has none"
            else:
                places = (self.tags.get(Tag.FOLDER), self.store.client.get_run(self.run_id).info.artifact_uri)
                advice = f"it is neither in {' nor in '.join(filter(None, places))}"
            raise UserError(
                f"run={self.run_id}: has no artifact {path} ({explain_failure(error, self.store.uri)}); {advice}"
            ) from error

    @contextmanager
    def open_files(self, *paths: str) -> Iterator[Path]:
        """Give a folder that holds these files: the run's own, or a temporary one with copies from the store."""
        if self.folder is not None:
            yield self.folder
            return
        with tempfile.TemporaryDirectory(prefix="lenetexp-") as folder:
            self.download(Path(folder), *paths)
            yield Path(folder)


def _load_run(store: Store, run: "Run") -> RecordedRun:
    info, data = run.info, run.data
    dataset = next((entry.dataset for entry in run.inputs.dataset_inputs), None) if run.inputs else None
    facts = (dataset.name, dataset.digest, dataset.profile or "") if dataset else ("", "", "")
    return RecordedRun(
        info.run_id, info.run_name, info.status, dict(data.metrics), dict(data.params), dict(data.tags),
        info.start_time, info.end_time, facts[0], info.lifecycle_stage == "deleted", store, *facts[1:],
        info.experiment_id,
    )  # fmt: skip


def list_offline_runs(folder: Path) -> list[RecordedRun]:
    """List the runs whose folders are beside `folder`, the newest first, from their journals."""
    runs = []
    for path in folder.parent.glob(f"*/{journal.NAME}"):
        try:
            events = JournalReader(path.parent)
        except UserError as error:
            print(f"note: {error}")
            continue
        if starts := events.starts:
            first, tags = starts[0], {**starts[0].tags, **starts[-1].tags}
            status = events.end.status if events.end else "RUNNING"
            metrics = next((result.values for result in events.select(Result)), {})
            params = {key: str(value) for key, value in first.params.items()}
            runs.append(RecordedRun(str(path.parent), first.name, status, metrics, params, tags, first.time))
    return sorted(runs, key=lambda run: -run.started)


def search_runs(
    store: Store, condition: str, at_most: int | None = None, order: list[str] = NEWEST_FIRST,
    experiments: list[str] | None = None,
) -> list[RecordedRun]:  # fmt: skip
    """Return the runs that an MLflow filter selects.

    Args:
        store: The store.
        condition: The filter.
        at_most: Largest number of runs; None for all.
        order: MLflow's `order_by`.
        experiments: Ids of the experiments to search; None for the store's own.

    Raises:
        UserError: `condition` is not a filter.
    """
    runs: list[Run] = []
    token = None
    while True:
        try:
            page = store.client.search_runs(
                experiments or [store.experiment_id],
                condition,
                max_results=at_most or 1000,
                order_by=order,
                page_token=token,
            )
        except UserError as error:
            if getattr(error.__cause__, "error_code", "") != "INVALID_PARAMETER_VALUE":
                raise
            raise UserError(f"runs={condition}: must be {RUNS} ({explain_failure(error, store.uri)})") from error
        runs += page
        token = page.token
        if at_most or not token:
            return [_load_run(store, run) for run in runs]


def list_children(store: Store, parent: str, condition: str = "") -> list[RecordedRun]:
    """Return the runs of a sweep that an MLflow filter selects, the newest first."""
    return search_runs(store, " and ".join(filter(None, [f"tags.`{Tag.PARENT}` = '{parent}'", condition])))


def get_run(store: Store, run_id: str, key: str = "run", allowed: str = "latest, best or a run's id") -> RecordedRun:
    """Return the run with this id.

    Raises:
        UserError: There is none. The message names `key` and what is `allowed`.
    """
    try:
        return _load_run(store, store.client.get_run(run_id))
    except UserError as error:
        reason = explain_failure(error, store.uri)
        raise UserError(
            f"{key}={run_id}: there is no such run in {store.label} ({reason}); must be {allowed}"
        ) from error
