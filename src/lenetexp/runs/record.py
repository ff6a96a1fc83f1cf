"""Opening a run's record, and closing it however the run ends."""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenetexp.config.identity import INVOCATION_KEYS, config_hash, leaves, name_of, swept_name
from lenetexp.config.schema import RunConfig
from lenetexp.datasets.load import Data
from lenetexp.errors import UserError, one_line, without_password
from lenetexp.reporting.run_summary import start_of_run
from lenetexp.reporting.terminal import say, shown
from lenetexp.runs import provenance
from lenetexp.runs.interrupt import Interrupted
from lenetexp.tracking.journal import Journal, Start
from lenetexp.tracking.names import Tag
from lenetexp.tracking.outbox import LITTLE_PATIENCE, Outbox, open_outbox
from lenetexp.tracking.recorder import origin_tags
from lenetexp.tracking.store import Store
from lenetexp.training.device import describe
from lenetexp.training.state import Training


@dataclass(frozen=True)
class RunContext:
    """One run with all that it needs."""

    settings: RunConfig
    config: dict[str, Any]  # as it is recorded
    folder: Path
    data: Data
    training: Training
    resumes: str | None  # id of the run whose epochs it begins with


def recorded_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config without how the command was given, and without a password in the store's address."""
    kept = {key: value for key, value in config.items() if key not in INVOCATION_KEYS}
    return {**kept, "tracking": {**kept["tracking"], "uri": without_password(kept["tracking"]["uri"])}}


def open_record(context: RunContext, events: Journal, store: Store | None) -> Outbox:
    """Says what is about to run and opens its record. Raises `UserError` if the store does not take it."""
    settings, data, folder = context.settings, context.data, context.folder
    device = describe(data.train.images.device)
    head = start_of_run(settings, data, context.training, device, folder, context.resumes)
    print(head, flush=True)
    origin = {**origin_tags(folder), Tag.DEVICE: device}
    root = settings.dataset.root
    # The absolute path: a later command may be given in another folder.
    facts = {**data.facts(), "root": None if root is None else str(Path(root).expanduser().resolve())}
    if events.starts:
        if provenance.read_dataset(folder) is None:  # it was killed before it wrote that
            provenance.write(folder, context.config, facts)
        provenance.add_command(folder)
        events.add(Start(event="resumed", tags=origin, epochs=settings.epochs))
        return open_outbox(store, events, say)
    # A swept group, as optimizer=sgd,adam, is no leaf of the config; the table of runs shows it as well.
    swept = settings.job.values if settings.job else {}
    known = {
        **origin,
        Tag.PARENT: settings.job.parent if settings.job else None,
        **{f"{Tag.SWEPT}{key}": value for key, value in swept.items()},
        Tag.CONTINUES: context.resumes,
        Tag.JOURNAL: secrets.token_hex(16),
        Tag.CONFIG_HASH: config_hash(context.config),
        Tag.DESCRIPTION: f"```\n{head}\n```",
        Tag.COMMIT: provenance.write(folder, context.config, facts),
    }
    dataset = {
        "name": data.name,
        "digest": data.digest,
        "source": json.dumps({"root": root or settings.dataset.target}),
        "profile": json.dumps(facts["images"]),
    }
    name = swept_name(swept) or name_of(settings.given) or folder.name
    tags = {key: value for key, value in known.items() if value is not None}
    params = {**swept, **dict(leaves(context.config))}
    events.add(Start(name=name, tags=tags, params=params, dataset=dataset, epochs=settings.epochs, swept=swept))
    return open_outbox(store, events, say)


@contextmanager
def closing_record(outbox: Outbox, context: RunContext, stop_if_asked: Callable[[], None]) -> Iterator[None]:
    """Sends the folder and closes the record, however the body ends."""
    settings, folder = context.settings, context.folder
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        # A second signal exits at once.
        outbox.end("KILLED", patience=LITTLE_PATIENCE if isinstance(stop, Interrupted) else 0.0)
        print(f"Stopped; {shown(folder)} keeps {context.training.epochs_done} of {settings.epochs} epochs.")
        if settings.job is None:
            print(f"To resume: {provenance.command_to_resume(outbox.journal.run_id)}", flush=True)
        raise
    except Exception as error:
        outbox.end("FAILED", f"{type(error).__name__}: {one_line(error)[:300]}")
        raise
    sent = False
    try:
        sent = outbox.end("FINISHED", stop_if_asked=stop_if_asked)
    except UserError as error:  # the disk is full
        sent = outbox.end("FAILED", str(error))
        raise
    finally:
        if not sent and not settings.tracking.offline:
            command = f"python scripts/sync.py folder={shown(folder)}"
            print(f"note: MLflow is still missing something; when it answers: {command}", flush=True)
    if outbox.refused:
        raise UserError(outbox.refused)
