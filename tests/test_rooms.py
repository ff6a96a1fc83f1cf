"""The structure: a room imports only from rooms above it, and each thing is done in one place."""

import ast
from pathlib import Path

import lenetexp

PACKAGE = Path(lenetexp.__file__).parent
PLUGINS = PACKAGE.parent / "hydra_plugins" / "lenetexp_sweep"
# From the ground up; docs/architecture.md draws them.
ROOMS = [
    "config", "cli", "interrupt", "process", "journal", "device", "models", "datasets", "data",
    "checkpoint", "evaluate", "optim", "train", "report", "tracking", "outbox", "figures", "provenance",
    "trust", "resume", "experiment", "answer", "sweep", "pictures", "predict",
]  # fmt: skip


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_a_room_imports_only_from_rooms_above_it() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*ROOMS, "__init__"}
    for position, room in enumerate(ROOMS):
        used = {
            name.split(".")[1] for name in imports(PACKAGE / f"{room}.py") if name.startswith("lenetexp.")
        }
        assert used <= set(ROOMS[:position]), f"{room} reaches down to {used - set(ROOMS[:position])}"


def test_mlflow_and_matplotlib_have_one_room_each() -> None:
    for library, room in (("mlflow", "tracking"), ("matplotlib", "figures")):
        users = {
            path.stem
            for path in [*PACKAGE.glob("*.py"), *PLUGINS.glob("*.py")]
            if any(name.split(".")[0] == library for name in imports(path))
        }
        assert users == {room}


def test_there_is_one_training_loop() -> None:
    loops = [path.stem for path in PACKAGE.glob("*.py") if ".backward()" in path.read_text()]
    assert loops == ["train"]


def test_the_command_line_needs_nothing_heavy() -> None:
    heavy = {"torch", "torchvision", "mlflow", "matplotlib", "optuna"}
    for path in (
        PACKAGE / "cli.py",
        PACKAGE / "config.py",
        PLUGINS / "sweeper.py",
        PLUGINS / "launcher.py",
    ):
        assert not {name.split(".")[0] for name in imports(path)} & heavy
