"""From Hydra's overrides to validated jobs. Every mistake ends here, before the first job starts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lenetexp import cli
from lenetexp.config.identity import compute_digest, hash_config, is_part_of_experiment, select_identity
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.errors import UserError
from lenetexp.reporting.terminal import print_line
from lenetexp.runs.interrupt import Interruption, raised

if TYPE_CHECKING:
    from hydra_plugins.lenetexp_sweep.sweeper import Sweeper


STOPPED_EARLY = "Stopped before the first run; nothing was trained."


@contextmanager
def before_first_run() -> Iterator[None]:
    """Let a signal end the body at once with one sentence. Nothing has been recorded yet."""
    with raised() as stop_if_asked:
        try:
            try:
                yield
            finally:
                stop_if_asked()  # a library may have made another error of it, or none
        except Interruption:
            print_line(STOPPED_EARLY)
            raise


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    overrides: tuple[str, ...]
    swept: dict[str, str]  # the swept keys with this job's values as they were typed
    settings: RunConfig
    config_hash: str


class Plan:
    """What a sweep varies, and what all its jobs share.

    Raises:
        UserError: A key cannot be swept.
    """

    def __init__(self, sweeper: "Sweeper", kind: str, overrides: Sequence[Override]) -> None:
        self.sweeper, self.kind = sweeper, kind  # grid or search
        self.swept = [override for override in overrides if override.is_sweep_override()]
        for override in self.swept:
            if not is_part_of_experiment(override.get_key_element()):
                raise UserError(
                    f"{override.input_line}: must have one value in a sweep; it says how runs are given or "
                    "recorded, not what is run"
                )
        # Of a sweep that varies nothing: the keys that it asks for.
        keys = [override.get_key_element() for override in self.swept or overrides if not override.is_delete()]
        self.keys = [*filter(is_part_of_experiment, keys)]  # as they are typed
        self.names = [key.lstrip("+") for key in self.keys]  # as the config has them
        self.fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]

    def make_job(self, overrides: Sequence[str]) -> Job:
        """Make one job, with its config composed and validated.

        Where the model is swept, a setting with one value is for those models that it has an effect on.

        Raises:
            UserError: The config is wrong.
        """
        values = cli.resolve_config(self._compose(overrides))
        values_by_key = dict(word.split("=", 1) for word in overrides if "=" in word)
        swept = {name: values_by_key[key] for name, key in zip(self.names, self.keys, strict=True)}
        settings = check_config(RunConfig, values)
        has_other_models = not {"model", "experiment"}.isdisjoint(swept)
        settings.require_effect([f"{key}={value}" for key, value in swept.items()] if has_other_models else overrides)
        return Job(tuple(overrides), swept, settings, hash_config(values))

    def compute_identity(self) -> str:
        """Return twelve hexadecimal digits that identify the sweep, whatever its values."""
        words = [word for word in self.fixed if not word.startswith("hydra")]
        try:
            # Unresolved: a setting that follows a swept one is the same text in all jobs.
            shared: Any = select_identity(OmegaConf.to_container(self._compose(words), resolve=False))  # type: ignore[arg-type]
        except (HydraException, OmegaConfBaseException):  # incomplete without the swept keys
            shared = sorted(word for word in words if not word.startswith(("resume=", "tracking", "trust")))
        return compute_digest([self.kind, sorted(self.keys), shared])

    def _compose(self, overrides: Sequence[str]) -> Any:
        loader = self.sweeper.hydra_context.config_loader
        config = loader.load_sweep_config(self.sweeper.config, list(overrides))
        with open_dict(config):
            del config["hydra"]
        return config


def stream_jobs(
    launcher: Any, jobs: Iterator[Sequence[str]], take: Callable[[int, JobReturn], object], at_a_time: int
) -> None:
    """Run jobs, each when a process is free for it, and call `take` with the number and the result of each."""
    if hasattr(launcher, "stream"):
        launcher.stream(jobs, take, first=0)
        return
    # Other launchers than the local one take a list, handle no signals and are interrupted by them.
    first = 0
    while wave := list(islice(jobs, at_a_time)):
        with raised():
            results = launcher.launch(wave, initial_job_idx=first)
        for number, result in enumerate(results, first):
            take(number, result)
        first += len(wave)
