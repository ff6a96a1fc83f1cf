"""From what Hydra parsed to lenetexp's jobs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from hydra_plugins.lenetexp_sweep.launcher import LocalLauncher
from lenetexp import cli
from lenetexp.config import (
    Job,
    RunConfig,
    UserError,
    check,
    config_hash,
    digest,
    identity,
    tells_runs_apart,
)
from lenetexp.interrupt import raised

if TYPE_CHECKING:
    from hydra_plugins.lenetexp_sweep.sweeper import GridSweeper


# So many configs take more than a second to compose.
MANY = 15


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
    if not keys:  # one run, that goes by what was asked for
        asked = [o.get_key_element() for o in overrides if not o.is_delete()]
        keys = [key for key in asked if tells_runs_apart(key)]
    if not keys:
        raise UserError(
            "-m: must be given values, as optimizer.lr=0.01,0.1, or a whole sweep by name, as sweep=lr"
        )
    (combinations,) = BasicSweeper.split_arguments(list(overrides), None)
    if not combinations:
        swept = ", ".join(str(o.input_line) for o in overrides if o.is_sweep_override())
        raise UserError(f"{swept}: must give a value; this gives none")
    watched = tqdm(
        combinations,
        desc="checking configs",
        disable=None if len(combinations) > MANY else True,
        leave=False,
    )
    given = [compose(sweeper, combination, keys) for combination in watched]
    jobs = list({job.config_hash: job for job in given}.values())
    if len(jobs) < len(given):
        print(f"{len(given) - len(jobs)} of {len(given)} combinations repeat others and are not run again")
    with warm(sweeper.runner, len(jobs)):
        from lenetexp.sweep import recorded, run_jobs

        names, sweep_id = [key.lstrip("+") for key in keys], identity_of(sweeper, "grid", keys, fixed)
        with recorded(jobs[0].settings, folder, names, sweep_id) as sweep:
            settle(sweeper, sweep.folder)
            run_jobs(sweep, jobs, lambda launched: launch(sweeper.runner, launched, 0))


def launch(runner: Launcher, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
    """Lets a launcher run jobs; those of others, that know no signals, are interrupted by one."""
    with nullcontext() if isinstance(runner, LocalLauncher) else raised():
        return runner.launch(jobs, initial_job_idx=first)


def identity_of(sweeper: "GridSweeper", kind: str, keys: Sequence[str], fixed: Sequence[str]) -> str:
    """Twelve hexadecimal digits that say which sweep this is, whatever its values.

    Args:
        sweeper: that goes through them.
        kind: how it does.
        keys: that it varies.
        fixed: overrides that all its runs share.
    """
    words = [word for word in fixed if not word.startswith("hydra")]
    try:
        config = sweeper.context.config_loader.load_sweep_config(sweeper.master, words)
        with open_dict(config):
            del config["hydra"]
        # Unresolved: a setting that follows a swept one is the same text in all runs.
        shared: Any = identity(OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
    except (HydraException, OmegaConfBaseException):  # not whole without the swept ones
        shared = sorted(word for word in words if not word.startswith(("resume=", "tracking", "trust")))
    return digest([kind, sorted(keys), shared])


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
    """The keys that are swept, and the overrides that all jobs share.

    Raises:
        UserError: a swept key does not say what is run.
    """
    for override in overrides:
        if override.is_sweep_override() and not tells_runs_apart(override.get_key_element()):
            raise UserError(
                f"{override.input_line}: must have one value in a sweep; it says how runs are given or "
                "recorded, not what they are"
            )
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
