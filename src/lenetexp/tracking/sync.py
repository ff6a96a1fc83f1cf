"""Sends to MLflow what it missed of runs: scripts/sync.py."""

from contextlib import closing
from pathlib import Path
from typing import Any

from lenetexp.config.schema import SyncConfig
from lenetexp.errors import UserError
from lenetexp.tracking import journal
from lenetexp.tracking.journal import Journal, JournalReader
from lenetexp.tracking.names import HOST, Tag
from lenetexp.tracking.outbox import open_outbox
from lenetexp.tracking.store import Store, open_store


def sync(settings: SyncConfig, config: dict[str, Any], folder: Path) -> None:
    """Sends what MLflow missed of all runs below a folder; raises `UserError` if something could not be sent."""
    root = Path(settings.folder)
    if not root.is_dir():
        raise UserError(f"folder={root}: there is no such folder; must hold run folders")
    store = open_store(settings.tracking)
    paths = sorted(root.rglob(journal.NAME))
    sent = failed = 0
    for path in paths:
        try:
            outcome = _sync_run(store, path.parent)
        except UserError as error:
            failed += 1
            outcome = f"not sent: {error}"
        sent += outcome.startswith("sent")
        if outcome:
            print(f"  {path.parent}  {outcome}", flush=True)
    print(f"{len(paths)} runs, {sent} sent to {store.shown} now, {failed} not sent")
    if failed:
        raise UserError(f"{failed} of {len(paths)} runs could not be sent")


def _sync_run(store: Store, folder: Path) -> str:
    """What was done about one run, if anything; raises `UserError` if it could not be sent."""
    written = JournalReader(folder)
    if not written.starts:
        return ""
    if (last := written.events[-1]).event == "sent":
        return f"is in {last.store}" if last.store not in (None, store.shown) else ""
    if written.end is None and (host := written.starts[-1].tags.get(Tag.HOST)) != HOST:
        return f"belongs to {host}, which may be running it"
    if journal.in_use(folder):
        return "is running"
    with closing(Journal(folder)) as events:
        count = len(events.unsent)
        outbox = open_outbox(store, events, print)
        done = outbox.close() if events.end else outbox.end("KILLED", "its process was gone")
    if outbox.refused or not done:
        raise UserError(outbox.refused or f"{store.shown} stopped answering; the rest is kept")
    assert outbox.recorder is not None
    outbox.recorder.untag(Tag.UNSENT)
    return f"sent: {count} records, run {events.run_id}"
