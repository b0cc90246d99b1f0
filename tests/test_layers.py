"""Who may import whom: rooms form storeys, imports point down only, and each outside library has one home."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import fedrec
from fedrec.models.registry import MODELS

ROOT = Path(fedrec.__file__).parent
STOREYS = [
    {"__init__", "__main__", "cli"},
    {"benchmarks"},
    {"serving", "estimators"},
    {"audit", "deploy"},
    {"bars"},
    {"runs"},
    {"engines", "network"},
    {"node"},
    {"owner"},
    {"federation"},
    {"privacy"},
    {"models", "secagg"},
    {"recommending", "aggregation"},
    {"data", "evaluation", "record"},
    {"language"},
    {"threads", "documents", "progress", "pictures", "inequality"},
    {"kernels"},
    {"errors"},
]
"""From the top down; rooms of one storey do not import each other."""
ROOM_OF = {"rating": "estimators", "testing": "estimators"}
"""Modules that stand outside the room they belong to, under a name for users."""
HOMES = {
    "nvflare": ["network.nvflare"],
    "torch": ["models.networks", "language"],
    "transformers": ["language"],
    "tokenizers": ["language"],
    "gguf": ["language"],
    "fastapi": ["serving"],
    "jinja2": ["serving.pages"],
    "dask": ["engines.cluster"],
    "matplotlib": ["pictures.canvas"],
    "mlflow": ["runs.tracking"],
    "tensorboardX": ["runs.tracking"],
    "wandb": ["runs.tracking"],
    "distributed": ["engines.cluster"],
    "adbc_driver_postgresql": ["data.databases"],
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of fedrec by its name without `fedrec.`, read as text."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(ROOT.rglob("*.py"))
    }


@cache
def imports(tree: ast.Module) -> set[str]:
    """All that a module imports, anywhere in its text, for types alone too: modules of fedrec by their whole name."""
    names = set()
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module is not None:
            assert statement.level == 0, "imports name the whole path"
            for alias in statement.names:
                inner = f"{statement.module}.{alias.name}"
                names.add(inner if inner.removeprefix("fedrec.") in modules() else statement.module)
    return names


def ours(tree: ast.Module) -> set[str]:
    """The modules of fedrec that a module imports, without `fedrec.`."""
    return {name.removeprefix("fedrec.") for name in imports(tree) if name.startswith("fedrec.")}


def room(module: str) -> str:
    first = module.partition(".")[0]
    return ROOM_OF.get(first, first)


def test_imports_point_down_only() -> None:
    storey = {name: number for number, rooms in enumerate(STOREYS) for name in rooms}
    upward = [
        f"{module} imports {target}"
        for module, tree in modules().items()
        for target in sorted(ours(tree))
        if room(target) != room(module) and module != "__main__"
        if storey[room(target)] <= storey[room(module)]
    ]
    assert not upward


def test_no_module_imports_itself_by_way_of_others() -> None:
    below = {module: ours(tree) & set(modules()) for module, tree in modules().items()}
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " > ".join([*way, module])
        if module not in done:
            for target in below[module]:
                walk(target, (*way, module))
            done.add(module)

    for module in below:
        walk(module, ())


@pytest.mark.parametrize("library", HOMES)
def test_an_outside_library_is_imported_at_its_home_only(library: str) -> None:
    users = defaultdict(list)
    for module, tree in modules().items():
        for name in imports(tree):
            users[name.partition(".")[0]].append(module)
    strangers = [user for user in users[library] if not any(user.startswith(home) for home in HOMES[library])]
    assert not strangers


def test_every_room_has_a_storey_and_says_what_lives_there() -> None:
    rooms = {room(module) for module in modules()}
    assert rooms <= set().union(*STOREYS)
    for folder in ROOT.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(folder.read_text(encoding="utf-8"))), folder


def test_no_model_is_named_but_by_models_and_by_words_for_people() -> None:
    """What holds of one model and not of another is said by the models, never by a table of names elsewhere."""
    apart = {"models", "kernels", "benchmarks", "cli", "data"}
    named = [
        (module, constant.value)
        for module, tree in modules().items()
        if room(module) not in apart
        for constant in ast.walk(tree)
        if isinstance(constant, ast.Constant) and constant.value in MODELS
    ]
    assert named == []
