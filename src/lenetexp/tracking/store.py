"""Open an MLflow store, and make every failure of it one sentence."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from filelock import FileLock

from lenetexp.config.schema import Tracking
from lenetexp.errors import UserError, format_error, mask_password, mask_secrets
from lenetexp.tracking.relocation import ARTIFACTS, update_addresses
from lenetexp.tracking.view import build_store_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow reads these when it is imported, so they must be set before; what the user has set wins.
for _key, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_key, _value)

# It prints every database failure with its SQL; here a failure is one sentence.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

# How a server is waited for: tries, and seconds a try. MLflow's defaults wait 246 s for one that is gone.
_PATIENCE = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
# Written down for the processes that this one starts: they inherit what set_patience sets.
_SET_BY_USER = os.environ.setdefault("LENETEXP_USERS_PATIENCE", ",".join(key for key in _PATIENCE if key in os.environ))
AT_THE_START = (1, 4)  # nothing has been done yet, so nothing is lost by giving up
USUAL = (3, 30)
DATABASE_TRIES = 3  # half a second in all; MLflow's ten wait 100 s for a database that is gone or has no driver
ONE_TRY = (1, 10)  # the outbox tries again by itself


def set_patience(tries: int, seconds: int) -> None:
    """Set how often and how many seconds this process waits for servers from now on."""
    for key, value in zip(_PATIENCE, (tries, seconds), strict=True):
        if key not in _SET_BY_USER:
            os.environ[key] = str(value)


set_patience(*USUAL)


class RefusalError(UserError):
    """A server refuses something, and would refuse it later, too."""


class _AnsweringClient:
    """MLflow's client, whose calls raise nothing but `UserError`."""

    def __init__(self, client: "MlflowClient", uri: str) -> None:
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> Any:
        from mlflow.exceptions import RestException

        def answering(*arguments: Any, **keywords: Any) -> Any:
            """Call the client's method, and turn what it raises into one sentence."""
            try:
                return getattr(self._client, name)(*arguments, **keywords)
            except Exception as error:  # a driver, a proxy or an artifact store may raise anything
                # By MLflow's own error code: a proxy's refusal may be temporary.
                final = getattr(error, "error_code", "") in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
                kind = RefusalError if final and isinstance(error, RestException) else UserError
                address, reason = mask_password(self._uri, whole=True), explain_failure(error, self._uri)
                raise kind(f"tracking.uri={address}: the store failed at {name} ({reason})") from error

        return answering


@dataclass(frozen=True)
class Store:
    """An MLflow store that answered, and the experiment in it."""

    uri: str  # as given: it may hold a password
    experiment_id: str
    experiment: str = ""  # its name

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client of the store. Its calls raise `UserError`."""
        return cast("MlflowClient", _AnsweringClient(_connect(self.uri), self.uri))

    @property
    def runs_folder(self) -> Path:
        """Where commands of one run put its folder: beside an SQLite file, else in the working folder."""
        is_file = self.uri.startswith("sqlite:///")
        return (Path(self.uri.removeprefix("sqlite:///")).parent if is_file else Path("outputs")) / "runs"

    @property
    def label(self) -> str:
        return mask_password(self.uri, whole=True)


@cache
def _connect(uri: str) -> "MlflowClient":
    import mlflow.store.db.utils  # takes a second

    mlflow.store.db.utils.MAX_RETRY_COUNT = DATABASE_TRIES
    return mlflow.MlflowClient(uri)


def open_store(settings: Tracking, create: bool = True) -> Store:
    """Connect to the store.

    Args:
        settings: Where it is, and the experiment's name.
        create: Whether to create what is missing.

    Raises:
        UserError: It does not answer, or something is missing.
    """
    address, uri, artifacts = mask_password(settings.uri, whole=True), settings.uri, None
    path = Path(uri.removeprefix("sqlite:///")).expanduser()
    if sqlite := uri.startswith("sqlite:"):
        uri = f"sqlite:///{path}"
        artifacts = (path.parent / ARTIFACTS).resolve().as_uri()
        if not create and not path.exists():
            raise UserError(
                f"tracking.uri={address}: {path.resolve()} does not exist; no run was recorded there yet. If one was "
                "elsewhere, cd to that project, or add tracking.uri=sqlite:///PROJECT/outputs/mlflow.db"
            )
    set_patience(*AT_THE_START)
    try:
        if sqlite and not path.exists():
            _create_sqlite(path)
        experiment = _find_experiment(_connect(uri), settings.experiment, artifacts, create)
        if sqlite:
            update_addresses(path)
    except UserError:
        raise
    except Exception as error:  # a driver or a proxy may raise anything
        raise UserError(
            f"tracking.uri={address}: this MLflow store does not answer ({explain_failure(error, uri)}); it must be "
            "a running server or an SQLite file of MLflow's"
        ) from error
    finally:
        set_patience(*USUAL)
    return Store(uri, experiment, settings.experiment)


def _create_sqlite(path: Path) -> None:
    """Create a store under a temporary name and rename it."""
    # MLflow's own creation has no lock: of several processes that open a missing file at once most die, and the file
    # may stay broken.
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if path.exists():  # another process was quicker
            return
        for remainder in path.parent.glob(f".{path.name}.new*"):
            remainder.unlink()
        temporary = path.with_name(f".{path.name}.new")
        # The second address: artifacts of MLflow's own experiment would lie in the current folder.
        SqlAlchemyStore(f"sqlite:///{temporary}", (path.parent / ARTIFACTS).resolve().as_uri())  # type: ignore[no-untyped-call]
        temporary.replace(path)


def _find_experiment(client: "MlflowClient", name: str, artifacts: str | None, create: bool) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None and create:
        with suppress(MlflowException):  # another process was quicker
            return client.create_experiment(name, artifact_location=artifacts, tags=build_store_tags())
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        names = ", ".join(e.name for e in client.search_experiments(max_results=20))
        raise UserError(f"tracking.experiment={name}: there is no such experiment; there are {names}")
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.experiment={name}: must not be a deleted one; choose another name, "
            f"or restore it: mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    if create:
        for key in build_store_tags().keys() - experiment.tags.keys():  # what its owner set stays
            with suppress(MlflowException):  # a server may keep an experiment from others' changes
                client.set_experiment_tag(experiment.experiment_id, key, build_store_tags()[key])
    return str(experiment.experiment_id)


def explain_failure(error: BaseException, address: str = "") -> str:
    """Return the innermost cause of an error on one line, without the passwords of the store's address."""
    while isinstance(inner := error.__cause__ or error.__context__, Exception):
        error = inner
    return mask_secrets(format_error(error), address)[:160]  # masked first: half an address is no address
