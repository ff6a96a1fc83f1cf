"""MLflow's registry of models: versions by name and alias. Whatever the store raises is a `UserError`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lenetexp.errors import UserError, format_error
from lenetexp.tracking.store import RefusalError, Store

MODEL = "classifier"  # the logged model that a version is made of; a run may have others
SHOWN = 20  # names in a message
FORM = "models:/NAME@ALIAS or models:/NAME/VERSION"


def require_valid(name: str, alias: str | None) -> None:
    """Raises `UserError` unless MLflow takes both."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils import validation

    checks: list[tuple[str, Any, str | None]] = [
        ("name", validation._validate_model_name, name),
        ("alias", validation._validate_model_alias_name, alias),
        ("alias", validation._validate_model_alias_name_reserved, alias),
    ]
    if "@" in name:
        raise UserError(f"name={name}: must not contain @, which {FORM} could not tell from an alias")
    for key, check, value in checks:
        try:
            if value is not None:
                check(value)
        except MlflowException as error:
            raise UserError(f"{key}={value}: MLflow does not take it ({format_error(error)[:160]})") from None


@contextmanager
def use_as_default(store: Store) -> Iterator[None]:
    """Makes it the store that MLflow itself uses, as saving and registering a model do; else it makes one here."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def register_model(
    store: Store, run_id: str, folder: Path, name: str, alias: str | None, notes: str
) -> tuple[str, str]:
    """Makes what lies in `folder` the run's logged model and a new version of `name`, which `alias` then means.

    To be called within `as_default`. Returns the version, and the one that the alias meant before, empty if none.
    """
    client, known = store.client, _list_models(store)
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, MODEL, run_id)
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    if name not in known:
        client.create_registered_model(name)
    version = client.create_model_version(
        name, f"models:/{model.model_id}", run_id, description=notes, model_id=model.model_id
    ).version
    if alias is not None:
        client.set_registered_model_alias(name, alias, version)
    return str(version), known.get(name, {}).get(alias or "", "")


def find_model_run(store: Store, address: str) -> str:
    """The id of the run that an address in `FORM` came from; else `UserError` with what exists."""
    found = re.fullmatch(r"models:/([^/:@]+)(?:@([\w-]+)|/(\d{1,9}|latest))", address)
    known = _list_models(store)
    if not known:
        raise UserError(
            f"run={address}: nothing is registered in {store.label}; "
            "register a run: python scripts/register.py run=best name=digits"
        )
    names = ", ".join(sorted(known)[:SHOWN])
    if not found:
        raise UserError(f"run={address}: must be {FORM}; there are {names}")
    name, alias, version = found.groups()
    if name not in known:
        raise UserError(f"run={address}: no model is registered as {name}; there are {names}")
    numbers = [str(entry.version) for entry in store.client.search_model_versions(f"name = {_quote(name)}")]
    numbers.sort(key=int)
    aliases = ", ".join(f"@{key} ({value})" for key, value in sorted(known[name].items())) or "no alias"
    wanted = known[name].get(alias) if alias else numbers[-1] if version == "latest" and numbers else version
    if wanted not in numbers:
        raise UserError(
            f"run={address}: there is no such version; {name} has {aliases} and the versions "
            f"{', '.join(numbers[-SHOWN:]) or 'none'}"
        )
    try:
        run_id = store.client.get_model_version(name, str(wanted)).run_id
    except RefusalError as error:  # deleted in the meantime
        raise UserError(f"run={address}: {error}") from error
    if not run_id:
        raise UserError(f"run={address}: version {wanted} was not registered from a run")
    return str(run_id)


def _list_models(store: Store) -> dict[str, dict[str, str]]:
    """The names of all registered models, with the version of each of their aliases."""
    known: dict[str, dict[str, str]] = {}
    token = None
    while True:
        page = store.client.search_registered_models(max_results=1000, page_token=token)
        known |= {entry.name: {key: str(value) for key, value in entry.aliases.items()} for entry in page}
        token = page.token
        if not token:
            return known


def _quote(name: str) -> str:
    """As MLflow's filters take it; they have no way to write a name with both kinds of quotes."""
    return f'"{name}"' if "'" in name else f"'{name}'"
