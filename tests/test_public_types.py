"""Type checkers know what `fedrec` offers, although its names are loaded when they are first used."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import fedrec as fr

MAKER = Path(__file__).parent.parent / "deploy/public_types.py"


def test_the_types_are_those_of_the_code() -> None:
    """`make lint` holds tests/typed_program.py to them."""
    spec = importlib.util.spec_from_file_location("public_types", MAKER)
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.FILE.read_text(encoding="utf-8") == maker.stub(), "run 'python deploy/public_types.py'"


def test_every_public_name_has_a_type() -> None:
    tree = ast.parse(Path(fr.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    names = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)} | {"__version__"}
    assert set(fr.__all__) <= names
