"""diagnostics.csv in a run's folder: what diagnostics=batch measures inside the net after every batch."""

import csv
from pathlib import Path

from lenetexp.errors import UserError
from lenetexp.tracking.names import File

Row = dict[str, float]  # "epoch", from 1, "batch", from 1 in each epoch, and what `look_inside` returned


class BatchDiagnostics:
    """The measurements of a run, written after each epoch. A resumed run keeps those of its `done` epochs."""

    def __init__(self, folder: Path, done: int) -> None:
        self.path, self.rows = folder / File.CLOSEUP, list[Row]()
        if self.path.exists():
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    # A killed command may have left an epoch that is trained again.
                    if float(row["epoch"]) <= done:
                        self.rows.append({key: float(value) for key, value in row.items() if value})

    def add(self, epoch: int, batch: int, inside: dict[str, float]) -> None:
        self.rows.append({"epoch": epoch, "batch": batch, **inside})

    def write(self) -> None:
        """Write all rows to a temporary file and rename it.

        Raises:
            UserError: It cannot be written.
        """
        columns = dict.fromkeys(key for row in self.rows for key in row)
        aside = self.path.with_name(f".{self.path.name}")
        try:
            with aside.open("w", newline="") as file:
                writer = csv.DictWriter(file, [*columns])
                writer.writeheader()
                writer.writerows(self.rows)
            aside.replace(self.path)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror})") from error
