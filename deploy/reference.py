"""Writes docs/reference: models and settings, keys of plans and of node.toml, commands, and the public names of fedrec.

    python deploy/reference.py

All of it is read from the code; tests/test_reference.py holds that the pages are up to date.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import typer.main
from pydantic import BaseModel

import fedrec
from fedrec.cli.main import app
from fedrec.estimators.estimator import Estimator
from fedrec.federation.plan import Plan
from fedrec.federation.settings import Setting, settings_of, summary_of
from fedrec.models.registry import MODELS, model_class
from fedrec.owner.config import NodeConfig

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
MADE = "<!-- Made from the code by deploy/reference.py. Do not edit. -->\n\n"
VALUES = {str: "text", int: "whole number", float: "number", Path: "path", bool: ""}
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Warns|Example|Examples):$")


def pages() -> dict[str, str]:
    """Text of every page, by the name of its file."""
    made = {"models.md": models, "plan.md": plan, "node.md": node, "commands.md": commands, "python.md": python}
    return {name: MADE + "\n".join(page()).rstrip() + "\n" for name, page in made.items()}


# --- tables of settings ---------------------------------------------------------------------------------------------


def models() -> Iterator[str]:
    """Every model, what it is, and its hyperparameters."""
    yield "# Models and their hyperparameters\n"
    yield "`--set key=value` sets one on the command line, `model: {name: …, key: value}` in a plan, and a keyword in"
    yield "Python. Keys of a [plan](plan.md) can be set beside them. [Models](../models.md) says what each is for.\n"
    yield from table(["model", "in Python", "ratings and weights"], (
        [f"[`{name}`](#{name})", f"`fr.{class_of(name)}`", escaped(model_class(name).traits.use_of_values)]
        for name in MODELS
    ))  # fmt: skip
    for name in MODELS:
        kind = model_class(name)
        yield f"## {name}\n"
        yield escaped(summary_of(kind)) + "\n"
        yield from settings_table(settings_of(kind), {})


def class_of(model: str) -> str:
    """How the estimator of a model is called in Python."""
    return next(name for name in fedrec.__all__ if getattr(getattr(fedrec, name), "model_name", None) == model)


def plan() -> Iterator[str]:
    """Every key of a plan."""
    yield "# Keys of a plan\n"
    yield "A plan defines a training run: `fedrec plan MODEL > plan.yaml` writes one with every key and its default,"
    yield "and `fedrec train --plan plan.yaml` runs it. `--set key=value` sets any key, with dots between parts:"
    yield "`--set evaluation.every=5`.\n"
    yield from keys_of(Plan, "", "model")


def node() -> Iterator[str]:
    """Every key of node.toml."""
    yield "# Keys of node.toml\n"
    yield "What an owner decides for a node, whatever a coordinator asks. `fedrec node init` writes the file, and"
    yield "`fedrec node check` says in words what it allows; see [deploy](../deploy.md).\n"
    yield from keys_of(NodeConfig, "", "")


def keys_of(kind: type[BaseModel], path: str, elsewhere: str) -> Iterator[str]:
    """A table of keys, then one of each part that has keys of its own."""
    inner = {name: found[0] for name, field in kind.model_fields.items() if (found := list(parts_in(field.annotation)))}
    links = {name: f"#{slug(path + name)}" for name in inner} | ({elsewhere: "models.md"} if elsewhere else {})
    yield from settings_table(settings_of(kind), links)
    for name, part in inner.items():
        yield f"## {path}{name}\n"
        if text := inspect.cleandoc(part.__doc__ or "").partition("\n\nArgs:")[0].partition("\n\nExample")[0]:
            yield escaped(text) + "\n"
        yield from keys_of(part, f"{path}{name}.", "")


def parts_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Classes with keys of their own within the type of a key."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for within in getattr(annotation, "__args__", ()):
        yield from parts_in(within)


def settings_table(settings: list[Setting], links: dict[str, str]) -> Iterator[str]:
    """Key, type, default, bounds and meaning."""
    if not settings:
        yield "There is nothing to set.\n"
        return
    yield from table(["key", "type", "default", "bounds", "meaning"], (
        [
            f"[`{one.name}`]({links[one.name]})" if one.name in links else f"`{one.name}`",
            escaped(one.kind),
            "required" if one.required else f"[its own]({links[one.name]})" if isinstance(one.default, dict)
            else f"`{one.default if isinstance(one.default, str) else json.dumps(one.default)}`",
            escaped(one.bounds),
            escaped(one.meaning),
        ]
        for one in settings
    ))  # fmt: skip


def table(head: list[str], rows: Iterator[list[str]]) -> Iterator[str]:
    """A table of Markdown."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


# --- commands -------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Every command with its arguments and options."""
    yield "# Commands\n"
    yield "`fedrec COMMAND --help` prints the same. A command ends with 0 when it has done its work, 2 for wrong"
    yield "input or a wrong plan, 1 for a failure, 130 when it was interrupted. `--json` prints one JSON object and"
    yield "nothing else.\n"
    found = list(commands_below(typer.main.get_command(app), "fedrec"))
    yield from table(["command", "what it does"], (
        [f"[`{name}`](#{slug(name)})", escaped(first_line(one.help))] for name, one in found
    ))  # fmt: skip
    for name, one in found:
        arguments = [option for option in one.params if option.param_type_name == "argument"]
        options = [option for option in one.params if option.param_type_name == "option" and not option.hidden]
        yield f"## {name}\n"
        yield f"```\n{' '.join([name, *(argument_name(argument) for argument in arguments), '[OPTIONS]'])}\n```\n"
        yield escaped(inspect.cleandoc(one.help or "")) + "\n"
        if arguments:
            yield from table(["argument", "meaning"], (
                [f"`{argument_name(argument)}`", escaped(argument.help or "")] for argument in arguments
            ))  # fmt: skip
        kinds = get_type_hints(one.callback, include_extras=True)
        yield from table(["option", "value", "default", "meaning"], (
            option_row(option, kinds[option.name]) for option in options
        ))  # fmt: skip


def commands_below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Commands of a group and of the groups in it, by their whole names."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for own, below in command.commands.items():
        yield from commands_below(below, f"{name} {own}")


def argument_name(argument: Any) -> str:
    """How an argument is called."""
    return str(argument.metavar or argument.name.upper())


def option_row(option: Any, annotation: Any) -> list[str]:
    """Names, value, default and meaning of an option, whose type is that of the command's parameter."""
    kind, info = get_args(annotation)[:2]
    alone = [one for one in (get_args(kind) if isinstance(kind, UnionType) else [kind]) if one is not NoneType]
    many = get_origin(alone[0]) is list
    bounds = [f"{sign} {most:g}" for sign, most in (("≥", info.min), ("≤", info.max)) if most is not None]
    value = ", ".join([VALUES[get_args(alone[0])[0] if many else alone[0]], *bounds, *(["again for more"] * many)])
    shown = "required" if option.required else "" if option.default in (None, False) else f"`{option.default}`"
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return [names, value, shown, escaped(option.help or "")]


def first_line(text: str | None) -> str:
    """The first paragraph, on one line."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


# --- Python ---------------------------------------------------------------------------------------------------------


def python() -> Iterator[str]:
    """Every public name."""
    yield "# Python\n"
    yield "`import fedrec as fr` gives these names; they load what they need when they are first used.\n"
    names = [name for name in fedrec.__all__ if name != "__version__"]
    estimators = {name: getattr(fedrec, name).model_name for name in names if is_estimator(getattr(fedrec, name))}
    others = [name for name in names if name not in estimators]
    about = {name: first_line(getattr(fedrec, name).__doc__) for name in others}
    yield from table(["name", "what it is"], (
        [f"[`fr.{name}`](#{slug('fr.' + name)})", escaped(about[name])] for name in others
    ))  # fmt: skip
    yield "## Estimators\n"
    methods = f"[`fr.Estimator`](#{slug('fr.Estimator')})"
    yield f"Every model has one, with the arguments and methods of {methods}; hyperparameters are keywords too.\n"
    yield from table(["estimator", "model"], (
        [f"`fr.{name}`", f"[`{model}`](models.md#{model})"] for name, model in estimators.items()
    ))  # fmt: skip
    for name in others:
        value = getattr(fedrec, name)
        yield f"## fr.{name}\n"
        yield from class_page(name, value, "###") if inspect.isclass(value) else described(name, value)


def is_estimator(value: Any) -> bool:
    """Whether a public name is the estimator of a model."""
    return inspect.isclass(value) and issubclass(value, Estimator) and value is not Estimator


def class_page(name: str, kind: type, heading: str) -> Iterator[str]:
    """A class, its methods and properties."""
    yield from described(name, kind)
    for own, value in members(kind):
        if isinstance(value, property):
            yield f"{heading} {name}.{own}\n"
            yield from sections(value.__doc__)
        else:
            yield f"{heading} {name}.{own}()\n"
            yield from described(f"{name}.{own}", getattr(kind, own))


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that have a docstring, of a class and of those of fedrec above it, in order."""
    found: dict[str, Any] = {}
    for owner in reversed(kind.__mro__):
        if owner.__module__.startswith("fedrec"):
            found |= vars(owner)
    for name, value in found.items():
        plain = getattr(value, "__func__", value)
        if not name.startswith("_") and (isinstance(value, property) or inspect.isfunction(plain)) and plain.__doc__:
            yield name, value


def described(name: str, value: Any) -> Iterator[str]:
    """The signature and the docstring."""
    if not (inspect.isclass(value) and issubclass(value, Exception)):
        yield f"```python\n{name}{signature(value)}\n```\n"
    yield from sections(value.__doc__)


def signature(value: Any) -> str:
    """Parameters with types and defaults as the code writes them; a function as default is shown as …."""
    found = inspect.signature(value)
    kinds = inspect.get_annotations(value) if inspect.isclass(value) else {}
    shown, bare = [], False
    for one in found.parameters.values():
        if one.name == "self":
            continue
        kind = kinds.get(one.name, one.annotation)
        default = Shown("…") if inspect.isroutine(one.default) else one.default
        if one.kind is one.KEYWORD_ONLY and not bare:
            shown.append("*")
        bare = bare or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        shown.append(str(one.replace(annotation=Shown(kind) if isinstance(kind, str) else kind, default=default)))
    end = f" -> {found.return_annotation}" if isinstance(found.return_annotation, str) else ""
    end = "" if inspect.isclass(value) else end
    text = ", ".join(shown)
    return f"({text}){end}" if len(text + end) < 90 else "(\n    " + ",\n    ".join(shown) + f",\n){end}"


class Shown:
    """What is shown as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def sections(docstring: str | None) -> Iterator[str]:
    """A docstring as Markdown: paragraphs, lists of arguments and errors, and examples."""
    blocks: list[tuple[str, list[str]]] = [("", [])]
    for line in inspect.cleandoc(docstring or "").splitlines():
        match = SECTION.match(line)
        if match is not None:
            blocks.append((match[1], []))
        elif blocks[-1][0] and line and not line.startswith(" "):
            blocks.append(("", [line]))
        else:
            blocks[-1][1].append(line)
    for head, lines in blocks:
        text = inspect.cleandoc("\n" + "\n".join(lines))
        if not text:
            continue
        if head.startswith("Example"):
            yield f"```python\n{text}\n```\n"
        elif head in ("Args", "Attributes", "Raises"):
            yield f"{'Arguments' if head == 'Args' else head}:\n"
            for entry in re.split(r"\n(?=\S)", text):
                names, colon, meaning = entry.partition(":")
                yield f"- `{names}`: {escaped(' '.join(meaning.split()))}" if colon else f"- {escaped(entry)}"
            yield ""
        else:
            yield (f"{head}: " if head else "") + escaped(text) + "\n"


# --- text -----------------------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Text in which Markdown's marks are themselves, outside of backticks."""
    parts = re.split(r"(`[^`\n]*`)", text.replace("|", "\\|") if "\n" not in text else text)
    return "".join(part if part.startswith("`") else re.sub(r"([*<\[\]])", r"\\\1", part) for part in parts)


def slug(heading: str) -> str:
    """The anchor of a heading, on the forge and in the site."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
