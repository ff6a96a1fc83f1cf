"""The structure that docs/architecture.md draws: who imports whom, what has one place, how long things are."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from helpers import PROJECT

SRC = PROJECT / "src"
# A package imports only from itself and from those in lines above its own.
LAYERS = """
    errors
    config
    cli
    datasets models
    training
    tracking
    reporting
    runs
    sweeps
    inference
    predict export find_lr describe
    hydra_plugins
"""
HEAVY = {"fastapi", "uvicorn", "torch", "torchvision", "mlflow", "matplotlib", "optuna", "sklearn", "scipy", "pandas"}
PLAIN_LOOP = "scripts/plain.py"  # the tutorial's loop, which ours is measured against
FILES = {str(path.relative_to(PROJECT)): path for top in ("src", "scripts") for path in (PROJECT / top).rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): TREES[name]
    for name, path in FILES.items()
    if path.is_relative_to(SRC)
}


def imports(node: ast.AST, at_module_level: bool = False) -> Iterator[str]:
    """Dotted names that are imported anywhere below, or only when the module itself is; types alone do not count."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.module and not child.level, "imports are absolute"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        elif not (at_module_level and isinstance(child, ast.FunctionDef | ast.Lambda)):
            yield from imports(child, at_module_level)


def module_of(name: str) -> str | None:
    """The module of ours that holds a dotted name; None if it is not ours."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def package_of(module: str) -> str:
    """As `LAYERS` names it."""
    top, _, rest = module.partition(".")
    return top if top == "hydra_plugins" else rest.partition(".")[0]


# What each module ever imports of ours, and what importing it imports, the packages around it included.
EVER = {module: {used for name in imports(tree) if (used := module_of(name))} for module, tree in MODULES.items()}
GRAPH = {
    module: {used for name in imports(tree, at_module_level=True) if (used := module_of(name))}
    | ({module.rpartition(".")[0]} & MODULES.keys())
    for module, tree in MODULES.items()
}


def test_a_package_imports_only_from_those_above_it() -> None:
    layers = [line.split() for line in LAYERS.split("\n") if line.strip()]
    assert {package_of(module) for module in MODULES} - {""} == {name for layer in layers for name in layer}
    above: set[str] = set()
    for layer in layers:
        for package in layer:
            for module, tree in MODULES.items():
                if package_of(module) == package:
                    ours = {package_of(used) for name in imports(tree) if (used := module_of(name))}
                    assert ours <= {*above, package}, f"{module} imports from {ours - above - {package}}"
        above |= {*layer}


@pytest.mark.parametrize("graph", [EVER, GRAPH], ids=["ever", "when imported"])
def test_no_modules_import_each_other_in_a_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize(
    ("library", "packages"),
    [
        ("mlflow", {"tracking", "inference"}),
        ("matplotlib", {"reporting"}),
        ("onnxruntime", {"export"}),
        ("fastapi", {"inference"}),
        ("uvicorn", {"inference"}),
    ],
)
def test_a_library_has_its_place(library: str, packages: set[str]) -> None:
    users = {name for name, tree in MODULES.items() if any(used.split(".")[0] == library for used in imports(tree))}
    assert {package_of(name) for name in users} == packages, users
    assert not [name for name, tree in TREES.items() if name.startswith("scripts/") and library in imports(tree)]


def test_there_is_one_training_loop() -> None:
    """Beside the plain one that it is measured against, the one step of the diagnostics, and the second derivatives."""
    loops = {
        name
        for name, tree in TREES.items()
        if any(isinstance(node, ast.Attribute) and node.attr == "backward" for node in ast.walk(tree))
    }
    ours = {f"src/lenetexp/training/{name}.py" for name in ("loop", "diagnostics", "curvature")}
    assert loops == ours | {PLAIN_LOOP}


def test_nothing_heavy_is_imported_where_help_would_wait_for_it() -> None:
    """Directly or through other modules of ours."""
    light = {module for module in MODULES if package_of(module) in ("errors", "config", "cli")}
    light |= {module for module in MODULES if module.endswith(("_sweep.launcher", "_sweep.sweeper"))}
    light |= {module for module in MODULES if any(other.startswith(f"{module}.") for other in MODULES)}
    assert len(light) > 15
    for module in light:
        reached, new = {module}, {module}
        while new := {used for one in new for used in GRAPH[one]} - reached:
            reached |= new
        for one in reached:
            heavy = {name.split(".")[0] for name in imports(MODULES[one], at_module_level=True)} & HEAVY
            assert not heavy, f"{module} imports {heavy} in {one}"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_modules_and_functions_are_short() -> None:
    for name, tree in TREES.items():
        assert len(FILES[name].read_text().splitlines()) <= 300, name
        for function in functions(tree):
            assert function.end_lineno and function.end_lineno - function.lineno < 60, f"{name}: {function.name}"


def test_the_training_loop_is_on_one_screen() -> None:
    """Under 30 lines each, without the docstring."""
    loop = {function.name: function for function in functions(MODULES["lenetexp.training.loop"])}
    for name in ("fit", "train_epoch"):
        docstring, *code = loop[name].body
        assert isinstance(docstring, ast.Expr) and ast.get_docstring(loop[name])
        signature = docstring.lineno - loop[name].lineno
        assert code[-1].end_lineno and signature + code[-1].end_lineno - code[0].lineno + 1 < 30, name


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in SRC.rglob("__init__.py")), ids=lambda folder: folder.name
)
def test_a_package_names_each_of_its_modules_in_its_docstring(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    named = {line.split()[0] for line in docstring.splitlines() if line}
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert modules <= named, f"{folder.name} does not name {modules - named}"


def test_every_promise_names_tests_that_exist() -> None:
    """`file.py`: `test_one`, `test_other`; … in docs/reliability.md, each in that file."""
    promises = (PROJECT / "docs/reliability.md").read_text()
    named = re.findall(r"`([\w/]+\.py)`: ((?:`test_\w+`(?: \([^|]*?\))?(?:, )?)+)", promises)
    assert len(named) > 20
    for file, tests in named:
        there = (PROJECT / "tests" / file).read_text()
        for test in re.findall(r"`(test_\w+)`", tests):
            assert f"def {test}(" in there, f"{file} has no {test}"
    rows = [line for line in promises.split("## ")[0].splitlines() if line.startswith("| ")]
    assert all("`test_" in row for row in rows[1:])
