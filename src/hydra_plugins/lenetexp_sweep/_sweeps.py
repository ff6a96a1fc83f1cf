"""From what Hydra parsed to lenetexp's jobs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

from hydra_plugins.lenetexp_sweep.launcher import LocalLauncher
from lenetexp import cli
from lenetexp.config import Job, RunConfig, UserError, check, config_hash

if TYPE_CHECKING:
    from hydra_plugins.lenetexp_sweep.sweeper import GridSweeper


def grid(sweeper: "GridSweeper", overrides: Sequence[Override], folder: Path) -> None:
    """Every combination of the values that `overrides` give.

    Raises:
        UserError: a job's config is wrong, before the first job starts; or, in the end, a job failed.
    """
    for override in overrides:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(
                f"{override.input_line}: must list its values, as key=1,2,3 or range(…); "
                "an interval is searched with hydra/sweeper=optuna"
            )
    keys, fixed = split(overrides)
    (combinations,) = BasicSweeper.split_arguments(list(overrides), None)
    jobs = [compose(sweeper, combination, keys) for combination in combinations]
    with warm(sweeper.runner, len(jobs)):
        from lenetexp.sweep import recorded, run_jobs

        with recorded(jobs[0].settings, folder, [key.lstrip("+") for key in keys], fixed) as sweep:
            settle(sweeper, sweep.folder)
            run_jobs(sweep, jobs, lambda launched: sweeper.runner.launch(launched, initial_job_idx=0))


def settle(sweeper: "GridSweeper", folder: Path) -> None:
    """Tells the launcher the sweep's folder: one that is gone on with has its own already."""
    with open_dict(sweeper.master):
        sweeper.master.hydra.sweep.dir = str(folder)


@contextmanager
def warm(runner: Launcher, at_most: int) -> Iterator[None]:
    """Starts the local launcher's processes while MLflow is imported and its store opened."""
    if not isinstance(runner, LocalLauncher):
        yield
        return
    runner.warm_up(at_most)
    try:
        yield
    finally:
        runner.close()


def split(overrides: Sequence[Override]) -> tuple[list[str], list[str]]:
    """The keys that are swept, and the overrides that all jobs share."""
    swept = [override.get_key_element() for override in overrides if override.is_sweep_override()]
    shared = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    return swept, shared


def compose(sweeper: "GridSweeper", combination: Sequence[str], keys: Sequence[str]) -> Job:
    """One job, its config composed and checked.

    Raises:
        UserError: it is wrong.
    """
    config = sweeper.context.config_loader.load_sweep_config(sweeper.master, list(combination))
    with open_dict(config):
        del config["hydra"]
    values = cli.plain(config)
    given = dict(word.split("=", 1) for word in combination)
    return Job(
        overrides=tuple(combination),
        swept={key.lstrip("+"): given[key] for key in keys},
        settings=check(RunConfig, values),
        config_hash=config_hash(values),
    )
