"""An SQLite store that was moved or copied together with its files: the addresses in it follow.

MLflow keeps absolute addresses. Without this a project that is moved loses its artifacts, and a copy reads and writes
those of the original.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from urllib.parse import unquote, urlsplit

from lenetexp.errors import UserError, wrap_text
from lenetexp.tracking.journal import is_in_use
from lenetexp.tracking.names import Tag

ARTIFACTS = "mlartifacts"  # beside the SQLite file; outputs/runs and outputs/sweeps are there as well

_OF_RUNS = (("runs", "artifact_uri", "true"), ("tags", "value", f"key = '{Tag.FOLDER}'"))
# Where MLflow keeps addresses: table, column, which rows.
_PLACES = (
    *_OF_RUNS,
    ("experiments", "artifact_location", "true"),
    ("logged_models", "artifact_location", "true"),
    ("model_versions", "source", "true"),
    ("model_versions", "storage_location", "true"),
)


def update_addresses(path: Path) -> None:
    """Make an SQLite store's addresses point to the files beside it, if those came here with it.

    Nothing changes if only the SQLite file was moved, nor do addresses outside its former folder. All changes are one
    transaction, so that a process that is killed leaves none, and one that comes second has nothing to do.

    Raises:
        UserError: The file cannot be written, or a run is being recorded here under the former name.
    """
    home = path.parent.resolve()
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as database:
        if not _find_former_homes(database, home):
            return
        try:
            database.execute("BEGIN IMMEDIATE")
            former_homes = [
                former for former in _find_former_homes(database, home) if _move_addresses(database, former, home, path)
            ]
            database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{path} was moved, and its addresses cannot be updated ({error}); "
                "copy its folder to where it can be written"
            ) from error
    for former in former_homes:
        print(wrap_text(f"note: {path} and its files were in {former} before; their addresses are updated"))


def _move_addresses(database: sqlite3.Connection, former: PurePath, home: Path, path: Path) -> bool:
    """Change every address below `former` to the same one below `home`. Return False if its files are not here."""
    if not _has_files_here(database, former, home, path.name):
        return False
    _require_unused(database, former, home)
    for table, column, rows in _PLACES:
        changes = [(new, row) for new, row, _ in _rewrite_addresses(database, table, column, rows, former, home)]
        database.executemany(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", changes)
    return True


def _find_former_homes(database: sqlite3.Connection, home: Path) -> set[PurePath]:
    """Return folders other than `home` in which the store's experiments have their artifacts."""
    homes = set[PurePath]()
    for (location,) in database.execute("SELECT artifact_location FROM experiments"):
        place = _parse_path(location or "")
        # MLflow's own experiment has a folder inside.
        homes |= {part.parent for part in (place, place and place.parent) if part and part.name == ARTIFACTS}
    return {former for former in homes if not (Path(former).exists() and home.samefile(former))}


def _has_files_here(database: sqlite3.Connection, former: PurePath, home: Path, name: str) -> bool:
    """Return whether files of the store's runs came here with it; of a store without runs, whether its folder did."""
    places = [place for part in _OF_RUNS for _, _, place in _rewrite_addresses(database, *part, former, home)]
    if not places:
        return not Path(former).exists() or Path(former, name).exists()
    return any(place.exists() for place in places)


def _require_unused(database: sqlite3.Connection, former: PurePath, home: Path) -> None:
    """Check that no process is writing a run here, as another container or mount of this folder may.

    Raises:
        UserError: One is.
    """
    running = f"key = '{Tag.FOLDER}' AND run_uuid IN (SELECT run_uuid FROM runs WHERE status = 'RUNNING')"
    for _, _, place in _rewrite_addresses(database, "tags", "value", running, former, home):
        if is_in_use(place):
            raise UserError(f"{place}: a run is being recorded here as one in {former}; wait until it has ended")


def _rewrite_addresses(
    database: sqlite3.Connection, table: str, column: str, rows: str, former: PurePath, home: Path
) -> Iterator[tuple[str, int, Path]]:
    """Yield the new address of each row whose address is below `former`, with the row's id and the new path."""
    for row, address in database.execute(f"SELECT rowid, {column} FROM {table} WHERE {rows}").fetchall():
        place = _parse_path(address or "")
        if place is not None and type(place) is type(former) and place.is_relative_to(former):
            address_here = home.joinpath(*place.relative_to(former).parts)
            yield address_here.as_uri() if address.startswith("file:") else str(address_here), row, address_here


def _parse_path(address: str) -> PurePath | None:
    """Return the path that an address means on the machine that wrote it, or None if it is not of a file system."""
    if address.startswith("file:"):
        address = re.sub(r"^/(?=[A-Za-z]:)", "", unquote(urlsplit(address).path))
    if re.match(r"[A-Za-z]:[\\/]", address):
        return PureWindowsPath(address)
    return PurePosixPath(address) if address.startswith("/") else None
