"""scripts/register.py: from a finished run to a version in MLflow's registry."""

import base64
import logging
from importlib.metadata import requires, version
from io import BytesIO
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from packaging.requirements import Requirement
from PIL import Image, ImageDraw

from lenetexp.config.commands import RegisterConfig
from lenetexp.errors import UserError, format_error, wrap_text
from lenetexp.inference.trained import NEEDED, TrainedNet, rebuild_net
from lenetexp.reporting.terminal import format_path
from lenetexp.tracking import registry
from lenetexp.tracking.names import BEST_ACCURACY
from lenetexp.tracking.selection import find_run
from lenetexp.tracking.store import Store, open_store

PORT = 5001  # mlflow ui has 5000
EXAMPLE = "example.png"


def run(settings: RegisterConfig, config: dict[str, Any], folder: Path) -> None:
    """Register a run's net and print how to serve it.

    Raises:
        UserError: It cannot be registered. Nothing was written.
    """
    registry.require_valid(settings.name, settings.alias)
    store = open_store(settings.tracking, create=False)
    stored = find_run(store, settings.run)
    accuracy = stored.metrics.get(BEST_ACCURACY)
    if stored.status != "FINISHED" or accuracy is None:
        raise UserError(f"run={stored.run_id}: must be a finished run of run.py; this one is {stored.status.lower()}")
    with TemporaryDirectory(prefix="lenetexp-") as place, registry.use_as_default(store):
        files = stored.download(Path(place), *NEEDED)
        net = rebuild_net(files, f"run={stored.run_id}", settings.trust)
        save_classifier(net, files, Path(place) / "model", settings.trust)
        description = net.describe(stored)
        number, before = registry.register_model(
            store,
            stored.run_id,
            Path(place) / "model",
            settings.name,
            settings.alias,
            f"run {stored.run_id}: {description}",
        )
    print(wrap_text(f"run {stored.run_id} ({stored.name}), {description}, is version {number} of {settings.name}"))
    if settings.alias:
        meant = f"; before, it meant version {before}" if before else ""
        print(wrap_text(f"the alias {settings.alias} means version {number}{meant}"))
    (folder / EXAMPLE).write_bytes(make_example())
    print("\n" + "\n".join(_format_advice(store, settings, number, folder / EXAMPLE)))


def _format_advice(store: Store, settings: RegisterConfig, number: str, picture: Path) -> list[str]:
    """Format the commands that serve, ask and predict with the version."""
    address = f"models:/{settings.name}@{settings.alias}" if settings.alias else f"models:/{settings.name}/{number}"
    place, model, file = quote(store.label), quote(address), quote(format_path(picture))
    request = """printf '{"inputs": ["%s"]}' "$(base64 < """ + file + """ | tr -d '\\n')\""""
    return [
        "to serve it:",
        f"  MLFLOW_TRACKING_URI={place} mlflow models serve -m {model} --env-manager local --port {PORT}",
        "to ask it about a picture:",
        f"  {request} |",
        f"    curl -d @- -H 'Content-Type: application/json' http://127.0.0.1:{PORT}/invocations",
        "to predict without a server:",
        f"  python scripts/predict.py {quote(f'run={address}')} images={file}",
    ]


def save_classifier(net: TrainedNet, files: list[Path], folder: Path, trust: list[str]) -> None:
    """Write the net as an MLflow model without pickles into a new folder, and try it on an example."""
    import mlflow.pyfunc

    picture = base64.b64encode(make_example()).decode()
    channels, height, width = net.facts.image_shape
    array = np.zeros((channels, height, width), dtype=int)
    array[:, height // 4 : height * 3 // 4, width // 2 - 1 : width // 2 + 1] = 255
    # MLflow warns that it does not look into a union, which is what we want.
    logging.getLogger("mlflow.types.type_hints").setLevel(logging.ERROR)
    try:
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(Path(__file__).with_name("logged.py")),
            artifacts={file.stem: str(file) for file in files},
            input_example=[picture, array.tolist()],
            model_config={"trust": trust},
            pip_requirements=list_requirements(),
            code_paths=[str(Path(__file__).parents[2])],  # lenetexp is in no registry of packages
        )
        answers = mlflow.pyfunc.load_model(str(folder)).predict([picture, array])
    except UserError:
        raise
    except Exception as error:  # whatever a custom net raises when MLflow loads it
        raise UserError(f"the net cannot be saved as a model of MLflow's ({format_error(error)[:200]})") from error
    if any(answer["predicted"] not in net.facts.classes for answer in answers):
        raise UserError(f"the saved model gave a strange answer: {answers}")


def list_requirements() -> list[str]:
    """List the installed versions of the packages that lenetexp requires."""
    requirements = [Requirement(text) for text in requires("lenetexp") or []]
    names = [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [f"{name}=={version(name).split('+')[0]}" for name in names]


def make_example() -> bytes:
    """Make a PNG file: a seven in pencil."""
    sheet = Image.new("L", (160, 200), 235)
    ImageDraw.Draw(sheet).line([(45, 50), (115, 50), (75, 155)], fill=40, width=12, joint="curve")
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
