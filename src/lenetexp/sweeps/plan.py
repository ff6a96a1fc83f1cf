"""From Hydra's overrides to checked jobs: every mistake ends here, before the first job starts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lenetexp import cli
from lenetexp.config.identity import config_hash, defines_experiment, digest, identity, swept_name
from lenetexp.config.schema import RunConfig, check
from lenetexp.errors import UserError
from lenetexp.runs.interrupt import raised

if TYPE_CHECKING:
    from hydra_plugins.lenetexp_sweep.sweeper import GridSweeper


@dataclass(frozen=True)
class Job:
    """One run that a sweep asks for."""

    overrides: tuple[str, ...]
    swept: dict[str, str]  # the swept keys with this job's values as they were typed
    settings: RunConfig
    config_hash: str

    @property
    def name(self) -> str:
        """What tells it from the sweep's other runs."""
        return swept_name(self.swept)


@dataclass(frozen=True)
class Plan:
    """What a sweep varies, and what all its jobs share."""

    sweeper: "GridSweeper"
    kind: str  # grid or search
    keys: tuple[str, ...]  # as they are typed
    fixed: tuple[str, ...]  # overrides

    @property
    def names(self) -> list[str]:
        """The swept keys as the config has them."""
        return [key.lstrip("+") for key in self.keys]

    def job(self, overrides: Sequence[str]) -> Job:
        """One job, with its config composed and checked. Raises `UserError` if it is wrong."""
        values = cli.plain(self._compose(overrides))
        given = dict(word.split("=", 1) for word in overrides if "=" in word)
        return Job(
            overrides=tuple(overrides),
            swept={key.lstrip("+"): given[key] for key in self.keys},
            settings=check(RunConfig, values),
            config_hash=config_hash(values),
        )

    def identity(self) -> str:
        """Twelve hexadecimal digits that say which sweep this is, whatever its values."""
        words = [word for word in self.fixed if not word.startswith("hydra")]
        try:
            # Unresolved: a setting that follows a swept one is the same text in all jobs.
            shared: Any = identity(OmegaConf.to_container(self._compose(words), resolve=False))  # type: ignore[arg-type]
        except (HydraException, OmegaConfBaseException):  # incomplete without the swept keys
            shared = sorted(word for word in words if not word.startswith(("resume=", "tracking", "trust")))
        return digest([self.kind, sorted(self.keys), shared])

    def _compose(self, overrides: Sequence[str]) -> Any:
        loader = self.sweeper.hydra_context.config_loader
        config = loader.load_sweep_config(self.sweeper.config, list(overrides))
        with open_dict(config):
            del config["hydra"]
        return config


def plan_of(sweeper: "GridSweeper", kind: str, overrides: Sequence[Override]) -> Plan:
    """What these overrides vary and share. Raises `UserError` if a swept key does not define the experiment."""
    keys, fixed = [], []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif defines_experiment(key):
            keys.append(key)
        else:
            raise UserError(
                f"{override.input_line}: must have one value in a sweep; it says how runs are given or "
                "recorded, not what is run"
            )
    return Plan(sweeper, kind, tuple(keys), tuple(fixed))


@contextmanager
def warm(launcher: Launcher, at_most: int) -> Iterator[None]:
    """Starts the local launcher's processes while MLflow is imported and its store opened."""
    warm_up: Callable[[int], None] | None = getattr(launcher, "warm_up", None)
    if warm_up is None:
        yield
        return
    warm_up(at_most)
    with closing(cast(Any, launcher)):
        yield


def launch(launcher: Launcher, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
    """Runs jobs; other launchers than the local one handle no signals and are interrupted by them."""
    with nullcontext() if hasattr(launcher, "warm_up") else raised():
        return launcher.launch(jobs, initial_job_idx=first)
