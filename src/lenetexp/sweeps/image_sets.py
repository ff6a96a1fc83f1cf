"""The images that runs were validated on. Accuracies on different ones are not ranked, compared or averaged."""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from pandas import DataFrame, Series

from lenetexp.tracking.query import RecordedRun


class Images(NamedTuple):
    """What determines the images that a run is validated and tested on."""

    dataset: str  # its name
    validation: str  # the share held out, or "test"
    split_seed: str
    digest: str  # of all images and labels


def identify_images(run: RecordedRun) -> Images | None:
    """Return what determines a run's images, or None if the run ended before it loaded any."""
    if not run.dataset:
        return None
    validation = run.params.get("dataset.validation", "")
    split_seed = "" if validation == "test" else run.params.get("dataset.split_seed", "")
    return Images(run.dataset, validation, split_seed, run.digest)


def name_images(images: Series) -> Series:
    """Name the images of each run by the dataset and as much else as tells them from the others'; "" if unknown."""
    kinds = [one for one in dict.fromkeys(images) if isinstance(one, Images)]
    varying = [name for i, name in enumerate(Images._fields) if i and len({one[i] for one in kinds}) > 1]
    if len({one[:-1] for one in kinds}) == len(kinds):
        varying = [name for name in varying if name != "digest"]  # the others say it
    names = {
        one: ", ".join([one.dataset, *(f"{name}={getattr(one, name)[:8]}" for name in varying if getattr(one, name))])
        for one in kinds
    }
    return Series([names.get(one, "") for one in images], images.index, dtype=object)


def fill_in_images(images: Series, runs: DataFrame, keys: Sequence[str]) -> Series:
    """Fill in the images of runs that failed before they loaded any, where others of the same dataset agree."""
    own = [key for key in keys if key.partition(".")[0] == "dataset"]
    filled = images.copy()
    for _, group in images.groupby([runs[key] for key in own] or (lambda _: 0), dropna=False):
        if len(kinds := {*group} - {""}) == 1:
            filled[group.index] = kinds.pop()
    return filled


def group_by_images(table: DataFrame) -> Iterator[tuple[str, DataFrame]]:
    """Yield the lines of each set of images with its name, "" if there is only one set.

    Where images are known, lines without any are left out: their runs failed too early.
    """
    has_images = table[table.images != ""]
    sets: list[tuple[Hashable, DataFrame]] = [*(has_images if len(has_images) else table).groupby("images", sort=False)]
    yield from ((str(name) if len(sets) > 1 else "", lines) for name, lines in sets)


def sort_by_images(table: DataFrame, accuracy: str, loss: str) -> DataFrame:
    """Keep the sets of images in their order and sort the lines of each by these columns, the best first."""
    place = {name: number for number, name in enumerate(dict.fromkeys(table.images))}
    by = DataFrame({"place": table.images.map(place), "accuracy": -table[accuracy], "loss": table[loss]})
    return table.loc[by.sort_values([*by], kind="stable").index].reset_index(drop=True)


def find_best(runs: DataFrame, recipes: DataFrame) -> dict[str, Series | None]:
    """Return the best run of the best recipe on each set of images, or None if it has no accuracy."""
    ranked = {
        images: runs.loc[lines.best].dropna(subset="best_val_accuracy") for images, lines in group_by_images(recipes)
    }
    return {images: None if lines.empty else lines.iloc[0] for images, lines in ranked.items()}
