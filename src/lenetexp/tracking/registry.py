"""MLflow's registry: models by name and alias. Whatever the store raises is a `UserError`."""

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
    """Check that MLflow accepts a model's name and alias.

    Raises:
        UserError: It does not.
    """
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
    """Make `store` the one that MLflow itself uses, as saving and registering a model do.

    By default MLflow creates one in the working folder.
    """
    import mlflow

    previous = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(previous)


def register_model(
    store: Store, run_id: str, folder: Path, name: str, alias: str | None, notes: str
) -> tuple[str, str]:
    """Make the content of `folder` the run's logged model and a new version of `name`.

    Call this within `use_as_default`.

    Args:
        store: The store.
        run_id: The run that the model comes from.
        folder: What MLflow's save wrote.
        name: The registered model's name.
        alias: The alias that the version gets, or None.
        notes: Its description.

    Returns:
        The version, and the version that the alias meant before, or "".
    """
    client, models = store.client, _list_models(store)
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, MODEL, run_id)
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    if name not in models:
        client.create_registered_model(name)
    version = client.create_model_version(
        name, f"models:/{model.model_id}", run_id, description=notes, model_id=model.model_id
    ).version
    if alias is not None:
        client.set_registered_model_alias(name, alias, version)
    return str(version), models.get(name, {}).get(alias or "", "")


def find_model_run(store: Store, address: str) -> str:
    """Return the id of the run that a registered model came from.

    Args:
        store: The store.
        address: `FORM`.

    Raises:
        UserError: There is no such version. The message names those that exist.
    """
    match = re.fullmatch(r"models:/([^/:@]+)(?:@([\w-]+)|/(\d{1,9}|latest))", address)
    models = _list_models(store)
    if not models:
        raise UserError(
            f"run={address}: nothing is registered in {store.label}; "
            "register a run: python scripts/register.py run=best name=digits"
        )
    names = ", ".join(sorted(models)[:SHOWN])
    if not match:
        raise UserError(f"run={address}: must be {FORM}; there are {names}")
    name, alias, version = match.groups()
    if name not in models:
        raise UserError(f"run={address}: no model is registered as {name}; there are {names}")
    numbers = [str(entry.version) for entry in store.client.search_model_versions(f"name = {_quote(name)}")]
    numbers.sort(key=int)
    aliases = ", ".join(f"@{key} ({value})" for key, value in sorted(models[name].items())) or "no alias"
    number = models[name].get(alias) if alias else numbers[-1] if version == "latest" and numbers else version
    if number not in numbers:
        raise UserError(
            f"run={address}: there is no such version; {name} has {aliases} and the versions "
            f"{', '.join(numbers[-SHOWN:]) or 'none'}"
        )
    try:
        run_id = store.client.get_model_version(name, str(number)).run_id
    except RefusalError as error:  # deleted in the meantime
        raise UserError(f"run={address}: {error}") from error
    if not run_id:
        raise UserError(f"run={address}: version {number} was not registered from a run")
    return str(run_id)


def _list_models(store: Store) -> dict[str, dict[str, str]]:
    """Return all registered models with the version of each of their aliases."""
    models: dict[str, dict[str, str]] = {}
    token = None
    while True:
        page = store.client.search_registered_models(max_results=1000, page_token=token)
        models |= {entry.name: {key: str(value) for key, value in entry.aliases.items()} for entry in page}
        token = page.token
        if not token:
            return models


def _quote(name: str) -> str:
    """Quote a name for MLflow's filters, which cannot write a name with both kinds of quotes."""
    return f'"{name}"' if "'" in name else f"'{name}'"
