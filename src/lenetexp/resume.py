"""An interrupted run found again, in MLflow or in its folder, and what it takes to go on with it."""

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lenetexp import checkpoint, datasets, journal, optim, process, provenance, tracking, trust
from lenetexp.cli import must_be_empty
from lenetexp.config import (
    HOW_IT_IS_GIVEN,
    RunConfig,
    UserError,
    check,
    config_hash,
    identity,
    one_line,
)
from lenetexp.journal import Journal
from lenetexp.tracking import Store, Stored

LAST = "checkpoints/last.pt"
# What is fetched of a run that goes on elsewhere. Files by their names, never a folder with whatever a
# server says is in it.
NEEDED = (
    "config.yaml", "dataset.json", LAST,
    "reproduce/command.txt", "reproduce/packages.txt", "reproduce/commit.txt", "reproduce/uncommitted.diff",
)  # fmt: skip
# Settings beside resume=RUN_ID that leave it to the run's own config what is trained.
BESIDE = (
    "resume", "trust", "tracking", "tracking.uri", "tracking.experiment", "tracking.offline", "data_dir",
)  # fmt: skip


@dataclass(frozen=True)
class Former:
    """A run of an earlier command."""

    name: str  # its MLflow id; its folder where it was recorded offline
    run_id: str | None
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    alive: bool  # whether a process of this machine has it in hand
    host: str
    settings: Mapping[str, Any]  # every leaf of its config by its dotted name
    config_hash: str
    results: Mapping[str, float]  # what was logged at its end
    stored: Stored | None = None
    recorded_in: Path | None = None  # where a run that was recorded offline lies

    @cached_property
    def folder(self) -> Path | None:
        """Where on this machine it lies; None where it does not.

        Raises:
            UserError: its journal is damaged.
        """
        if self.stored is None:
            return self.recorded_in
        tags = self.stored.tags
        place = Path(tags.get("lenetexp.folder", ""))
        if self.host != socket.gethostname() or not (place / journal.NAME).is_file():
            return None
        # Another machine's folder may have the same name. A run that was killed before its id was written
        # down is known by its journal's own.
        for event in journal.read(place / journal.NAME):
            key = event["tags"].get("lenetexp.journal") if event["event"] == "start" else None
            if event.get("run_id") == self.run_id or (key and key == tags.get("lenetexp.journal")):
                return place
        return None

    @property
    def interrupted(self) -> bool:
        """Whether there is something left to do."""
        return self.status != "FINISHED"


@dataclass(frozen=True)
class Found:
    """What a command with `resume` has to do."""

    former: Former
    settings: RunConfig
    config: dict[str, Any]
    longer: bool = False  # a finished run, for more epochs: a run of its own that begins where it ended


def find(settings: RunConfig, config: dict[str, Any], folder: Path) -> Found | None:
    """The run that `settings.resume` means; None where there is none yet and a new one begins.

    Args:
        settings: the checked config.
        config: the same as it was composed.
        folder: that a new run would have; runs recorded offline lie beside it.

    Raises:
        UserError: it is running, differs in its config, or there is no such run.
    """
    store = None if settings.tracking.offline else _store(settings)
    if isinstance(settings.resume, str):
        former = _by_id(store, settings.resume, folder)
        _not_in_hand(former)
        if all(_key(word) in BESIDE for word in settings.given):
            return Found(former, *_as_it_was(former, settings, config))
        return _same(former, settings, config)
    formers = _of_store(store) if store is not None else _beside(folder)
    wanted = config_hash(config)
    for former in formers:
        if former.config_hash == wanted:
            _not_in_hand(former)
            if former.status == "RUNNING" and former.host != socket.gethostname():
                raise UserError(
                    f"resume=true: run {former.name} is marked as running on {former.host}; if it is "
                    f"not, take it over: resume={former.name}"
                )
            return Found(former, settings, config)
    for former in formers:
        if not former.interrupted and _is_shorter(differences(former.settings, config)):
            return _same(former, settings, config)
    for former in formers:
        here = former.host == socket.gethostname()
        if here and (former.status == "KILLED" or (former.status == "RUNNING" and not former.alive)):
            return _same(former, settings, config)
    print("Nothing to go on with: no interrupted run of this config. A new one begins.", flush=True)
    return None


def _same(former: Former, settings: RunConfig, config: dict[str, Any]) -> Found:
    """That run, if it is of this config, or of the same for fewer epochs.

    Raises:
        UserError: it differs otherwise; names the keys.
    """
    if former.config_hash == config_hash(config):
        return Found(former, settings, config)
    differing = differences(former.settings, config)
    # Pictures may have moved: whether they are the same is told by their digest.
    if differing.pop("dataset.root", None) is not None and not differing:
        return Found(former, settings, config)
    said = ", ".join(f"{key} ({then} there, {now} here)" for key, (then, now) in differing.items())
    given = "true" if settings.resume is True else former.name
    if not former.interrupted and _is_shorter(differing):
        if set(differing) == {"epochs"}:
            return Found(former, settings, config, longer=True)
        then, now = differing["epochs"]
        raise UserError(
            f"resume={given}: {settings.scheduler.name} lays out the learning rate over all epochs, so "
            f"run {former.name} of {then} is not the beginning of one of {now}; begin anew without resume, "
            "or choose scheduler=constant, step, multistep, exponential or plateau"
        )
    ways = "give its own command, or begin a new run without resume"
    if isinstance(settings.resume, str):
        ways = f"resume={former.name} alone takes the run's own settings; else {ways}"
    raise UserError(f"resume={given}: run {former.name} differs in {said}; {ways}")


def _is_shorter(differing: Mapping[str, tuple[str, str]]) -> bool:
    """Whether it is only shorter: in its epochs, and in a schedule that is laid out over them."""
    then, now = differing.get("epochs", ("0", "0"))
    others = [key for key in differing if key != "epochs"]
    laid_out = all(key.startswith("scheduler.") and key != "scheduler._target_" for key in others)
    return laid_out and now.isdigit() and then.isdigit() and int(then) < int(now)


def differences(then: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Keys of the training that differ, with the values then and now, as texts."""
    now = {key: _said(value) for key, value in identity(config).items()}
    # MLflow keeps texts: a list is read back, to be compared item by item.
    before = {key: _said(_as_list(value)) for key, value in identity(then).items()}
    keys = dict.fromkeys([*now, *before])
    # A sweep's run has its swept groups among its params: optimizer=sgd beside optimizer.lr.
    groups = {key for key in before if any(other.startswith(f"{key}.") for other in now)}
    return {
        key: (before.get(key, "not set"), now.get(key, "not set"))
        for key in keys
        if key not in groups and before.get(key) != now.get(key)
    }


def _as_list(value: Any) -> Any:
    if not (isinstance(value, str) and value.startswith("[")):
        return value
    try:
        return [_said(item) for item in yaml.safe_load(value)]
    except (yaml.YAMLError, RecursionError, TypeError):
        return value


def _said(value: Any) -> str:
    """1.0, "1.0" and 1 as one text."""
    text = str([_said(item) for item in value] if isinstance(value, list) else value)
    try:
        return f"{float(text):g}" if float(text).is_integer() else repr(float(text))
    except (ValueError, OverflowError):
        return text


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _store(settings: RunConfig) -> Store | None:
    try:
        return tracking.open_store(settings.tracking, create=False)
    except UserError:
        if settings.resume is True and settings.tracking.uri.startswith("sqlite"):
            return None  # nothing was recorded yet: a first command may say resume=true, too
        raise


def _by_id(store: Store | None, which: str, folder: Path) -> Former:
    if store is None:
        place = Path(which).expanduser().resolve()
        found = [
            former
            for former in _beside(folder)
            if which == former.run_id or place == Path(former.name).resolve()
        ]
        if not found:
            raise UserError(f"resume={which}: there is no such run beside {folder}")
        return found[0]
    try:
        stored = Stored(store, store.client.get_run(which))
    except Exception as error:
        raise UserError(
            f"resume={which}: there is no such run in {store.shown} ({one_line(error)[:120]}); must be "
            "true, false or the MLflow id of a run"
        ) from None
    if "lenetexp.sweep" in stored.tags:
        raise UserError(
            f"resume={which}: is a sweep; one goes on with it by its own command and resume=true"
        )
    if stored.run.info.lifecycle_stage == "deleted":
        raise UserError(f"resume={which}: was deleted; mlflow runs restore --run-id {which} brings it back")
    if not stored.config_hash:
        raise UserError(f"resume={which}: is not a run of lenetexp's")
    return _former(stored)


def _not_in_hand(former: Former) -> None:
    if former.alive:
        raise UserError(f"resume: run {former.name} is running on this machine; end it first")


def _of_store(store: Store) -> list[Former]:
    """Runs of single commands, the newest first."""
    runs = tracking.search(store, "tags.`lenetexp.config_hash` LIKE '%'")
    return [_former(run) for run in runs if tracking.PARENT not in run.tags]


def _former(stored: Stored) -> Former:
    return Former(
        name=stored.run_id,
        run_id=stored.run_id,
        status=stored.status,
        alive=stored.runs_here,
        host=stored.tags.get("lenetexp.host", ""),
        settings=stored.run.data.params,
        config_hash=stored.config_hash,
        results=stored.metrics,
        stored=stored,
    )


def _beside(folder: Path) -> list[Former]:
    """Runs whose folders lie beside `folder`, the newest first, from their journals alone."""
    found = []
    for path in folder.parent.glob(f"*/{journal.NAME}"):
        try:
            events = journal.read(path)
        except UserError as error:
            print(f"note: {error}")
            continue
        starts = [event for event in events if event["event"] in ("start", "resumed")]
        if not starts or events[0]["event"] != "start":
            continue
        end, tags = journal.end_of(events), {**events[0]["tags"], **starts[-1]["tags"]}
        ids = [event["run_id"] for event in events if event.get("run_id")]
        former = Former(
            name=str(path.parent),
            run_id=ids[-1] if ids else None,
            status=end["status"] if end else "RUNNING",
            alive=end is None and process.alive(tags["lenetexp.process"]),
            host=tags["lenetexp.host"],
            settings=events[0]["params"],
            config_hash=tags["lenetexp.config_hash"],
            recorded_in=path.parent,
            results=next((event["values"] for event in events if event["event"] == "result"), {}),
        )
        found.append((events[0]["time"], former))
    return [former for _, former in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _as_it_was(
    former: Former, settings: RunConfig, config: dict[str, Any]
) -> tuple[RunConfig, dict[str, Any]]:
    """The config that the run was started with; of this command's, only how and where it is recorded.

    Raises:
        UserError: it is damaged, or names what is not trusted.
    """
    with tracking.scratch() as scratch:
        place = former.folder
        if place is None:
            assert former.stored is not None
            former.stored.download(scratch, "config.yaml", "dataset.json")
            place = scratch
        try:
            then = trust.read_config((place / "config.yaml").read_text(), f"resume={former.name}")
            root = json.loads((place / "dataset.json").read_text())["root"]
            if not isinstance(then.get("dataset"), dict):
                raise ValueError("config.yaml names no dataset")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"resume={former.name}: its record is damaged ({one_line(error)[:120]})"
            ) from None
    kept = {key: config[key] for key in (*HOW_IT_IS_GIVEN, "tracking", "data_dir") if key in config}
    now = {**then, **kept}
    if root is not None:  # as seen from any folder, where the config's may be relative
        now["dataset"] = {**now["dataset"], "root": str(root)}
    checked = check(RunConfig, now)
    kinds: dict[str, tuple[type | None, Sequence[Any]]] = {
        "model": (nn.Module, ()),
        "optimizer": (Optimizer, ()),
        "scheduler": (LRScheduler, (optim.warmup_cosine,)),
        "dataset": (None, datasets.FUNCTIONS),
    }
    for key, (kind, functions) in kinds.items():
        trust.refuse_strangers(getattr(checked, key).call(), key, settings.trust, kind, functions)
    return checked, now


def place(found: Found, folder: Path) -> Path:
    """The folder in which the run goes on: its own where that is on this machine, else `folder`.

    Raises:
        UserError: the store does not hand out what is needed there.
    """
    former = found.former
    if not found.longer and former.folder is not None:
        return former.folder
    folder.mkdir(parents=True, exist_ok=True)
    must_be_empty(folder)
    if found.longer:
        return folder
    assert former.stored is not None
    _fetch(former.stored, folder)
    return folder


def recorded_digest(found: Found, folder: Path) -> str | None:
    """The digest of the images that the run was trained on; None where it did not come to that.

    Raises:
        UserError: its record is damaged.
    """
    former = found.former
    if not found.longer:
        facts = provenance.dataset_of(folder)
    elif former.folder is not None:
        facts = provenance.dataset_of(former.folder)
    else:
        assert former.stored is not None
        with tracking.scratch() as scratch:
            former.stored.download(scratch, "dataset.json")
            facts = provenance.dataset_of(scratch)
    return None if facts is None else str(facts["digest"])


def last_state(found: Found, folder: Path) -> dict[str, Any] | None:
    """The checkpoint to go on from, of a run whose `place` is `folder`; None where it had none yet.

    Raises:
        UserError: it is damaged, or the store does not hand it out.
    """
    former = found.former
    if not found.longer:
        return checkpoint.load(folder / LAST) if (folder / LAST).exists() else None
    if former.folder is not None:
        return checkpoint.load(former.folder / LAST)
    assert former.stored is not None
    with tracking.scratch() as scratch:
        former.stored.download(scratch, LAST)
        return checkpoint.load(scratch / LAST)


def _fetch(stored: Stored, folder: Path) -> None:
    """Brings a run from the store into `folder`, with a journal of what the store has of it."""
    have = stored.listed()
    for path in NEEDED:
        if path in have:
            stored.download(folder, path)
    events = Journal(folder)
    try:
        if events.events:
            return
        tags = stored.tags
        events.write(
            "start",
            run_id=stored.run_id,
            tags=tags,
            params=stored.run.data.params,
            swept={key.removeprefix("swept."): tags[key] for key in tags if key.startswith("swept.")},
            epochs=0,  # what the command that goes on says
        )
        times, series = (
            stored.times("val/loss"),
            {key: dict(stored.history(key)) for key in tracking.SERIES},
        )
        for epoch, when in sorted(times.items()):
            values = {key: steps[epoch] for key, steps in series.items() if epoch in steps}
            events.add({"event": "epoch", "time": when, "epoch": epoch, **values})
        if "test/accuracy" in stored.metrics:
            events.write("result", values={})
        events.write("sent")
    finally:
        events.close()
