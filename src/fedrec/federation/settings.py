"""Every key of plans and models as people look it up: type, default, meaning, bounds; a commented plan; a JSON schema.

All of it comes from the classes themselves: fields and bounds from pydantic, meanings from the `Args` of docstrings.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from fedrec.evaluation.metrics import default_metrics
from fedrec.federation.plan import Plan
from fedrec.models.registry import model_class, model_names

__all__ = ["Setting", "commented_plan", "plan_schema", "settings_of", "summary_of"]

_WIDTH = 110
_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "multiple of",
}


@dataclass(frozen=True)
class Setting:
    """One key.

    Args:
        name: of the key.
        kind: its type in words, such as `number`, `whole number or null`, `bce | bpr`.
        default: as JSON has it; `None` also where there is none.
        required: whether it has no default.
        bounds: such as `> 0, ≤ 1024`; empty without.
        meaning: what it does.
    """

    name: str
    kind: str
    default: Any
    required: bool
    bounds: str
    meaning: str

    def to_json(self) -> dict[str, Any]:
        """The setting as a mapping."""
        return dict(vars(self))


def settings_of(kind: type[BaseModel]) -> list[Setting]:
    """The keys of a model or of a part of a plan, in order.

    Example:
        >>> from fedrec.models.linear.ease import EASE
        >>> reg = settings_of(EASE)[0]
        >>> reg.name, reg.kind, reg.default, reg.bounds
        ('reg', 'number or auto', 'auto', '> 0')
    """
    schema, meanings = kind.model_json_schema(), _meanings(kind)
    return [
        Setting(
            name,
            _kind_of(field),
            field.get("default"),
            name in schema.get("required", []),
            _bounds_of(field),
            meanings.get(name, ""),
        )
        for name, field in schema["properties"].items()
    ]


def summary_of(kind: type[BaseModel]) -> str:
    """What a model is and who published it: the first paragraph of its module, on one line."""
    text = inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "")
    return " ".join(text.split("\n\n")[0].split())


def commented_plan(model: str, source: str = "clicks.csv") -> str:
    """A plan in YAML with every key, its default and its meaning, ready to be edited.

    Hyperparameters are commented out: what a plan sets stays as it is where a private form would take another default.

    Args:
        model: its name.
        source: of the data.

    Raises:
        PlanError: if there is no such model.

    Example:
        >>> from fedrec.documents import parse_yaml
        >>> plain = {"data": {"source": "clicks.csv"}, "model": {"name": "mf"}}
        >>> Plan.make(parse_yaml(commented_plan("mf"))) == Plan.make(plain)
        True
    """
    found = model_class(model)
    lines = ["# A plan of fedrec: fedrec train --plan plan.yaml", ""]
    parts: Mapping[str, type[BaseModel]] = _parts()
    for setting in settings_of(Plan):
        lines += _comment(setting, "")
        if setting.name == "model":
            lines += ["model:", *_wrapped(summary_of(found), "  "), f"  name: {model}"]
            for own in settings_of(found):
                lines += ["", *_comment(own, "  "), f"  # {own.name}: {_yaml(own.default)}"]
        elif setting.name == "data":
            lines += ["data:", *_part(parts["data"], "  ", {"source": source})]
        elif setting.name in parts and setting.default is not None:
            fit = {"metrics": list(default_metrics(found.traits.reads_ratings))} if setting.name == "evaluation" else {}
            lines += [f"{setting.name}:", *_part(parts[setting.name], "  ", fit)]
        elif setting.name in parts:
            lines += [f"{setting.name}: null"]
            lines += [f"# {line}".rstrip() for line in _part(parts[setting.name], "  ", {})]
        elif setting.name == "cohort" and found.traits.cohort is not None:
            lines += [f"cohort: {found.traits.cohort}"]
        else:
            lines += [f"{setting.name}: {_yaml(setting.default)}"]
        lines.append("")
    return "\n".join(lines)


def plan_schema() -> dict[str, Any]:
    """The JSON schema of a plan, with the hyperparameters of each model and the meaning of every key."""
    schema = Plan.model_json_schema()
    kinds: dict[str, type[BaseModel]] = {"Plan": Plan, **{part.__name__: part for part in _parts().values()}}
    for name, kind in kinds.items():
        _describe(schema if name == "Plan" else schema["$defs"].get(name, {}), kind)
    choices: list[dict[str, Any]] = []
    for name in model_names():
        kind = model_class(name)
        own = kind.model_json_schema()
        _describe(own, kind)
        own["properties"] = {"name": {"const": name}, **own["properties"]}
        own |= {"required": ["name"], "description": summary_of(kind)}
        choices.append(own)
    schema["properties"]["model"] = {"oneOf": choices, "description": "Name and hyperparameters."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _parts() -> dict[str, type[BaseModel]]:
    """Classes of the keys of a plan that have keys of their own."""
    found = {}
    for name, field in Plan.model_fields.items():
        for kind in _classes(field.annotation):
            found[name] = kind
    found["cleaning"] = next(iter(_classes(found["data"].model_fields["cleaning"].annotation)))
    del found["release"]
    return found


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _classes(inner)


def _part(kind: type[BaseModel], indent: str, given: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for setting in settings_of(kind):
        lines += _comment(setting, indent)
        if setting.name == "cleaning":
            lines += [f"{indent}cleaning:", *_part(_parts()["cleaning"], f"{indent}  ", {})]
            continue
        value = given.get(setting.name, setting.default)
        lines.append(f"{indent}{setting.name}: {'…' if setting.required and value is None else _yaml(value)}")
    return lines


def _comment(setting: Setting, indent: str) -> list[str]:
    bounds = f", {setting.bounds}" if setting.bounds else ""
    text = f"{setting.meaning} [{setting.kind}{bounds}{', required' if setting.required else ''}]".strip()
    return _wrapped(text, indent)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n...\n").strip()


def _meanings(kind: type[BaseModel]) -> dict[str, str]:
    """What the `Args` of a class and of those above it say of each name."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        text = inspect.cleandoc(owner.__dict__.get("__doc__") or "")
        match = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", text, re.MULTILINE)
        if match is None or not issubclass(owner, BaseModel):
            continue
        for names, meaning in re.findall(r"^ {4}([a-z_0-9, ]+): ((?:.*\n?)(?: {5,}.*\n?)*)", match[1], re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()).replace("`None`", "`null`"))
    return found


def _kind_of(field: Mapping[str, Any]) -> str:
    if "anyOf" in field or "oneOf" in field:
        kinds = [_kind_of(choice) for choice in (*field.get("anyOf", ()), *field.get("oneOf", ()))]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in field:
        return "mapping"
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if field.get("type") == "array":
        return f"list of {_kind_of(field.get('items', {}))}"
    words = {"integer": "whole number", "string": "text", "boolean": "true or false", "object": "mapping"}
    return words.get(str(field.get("type")), str(field.get("type", "anything")))


def _bounds_of(field: Mapping[str, Any]) -> str:
    own = [f"{sign} {field[key]:g}" for key, sign in _BOUNDS.items() if key in field]
    return ", ".join([*own, *(text for choice in field.get("anyOf", ()) if (text := _bounds_of(choice)))])


def _describe(schema: dict[str, Any], kind: type[BaseModel]) -> None:
    meanings = _meanings(kind)
    for name, field in schema.get("properties", {}).items():
        field.pop("title", None)
        if name in meanings:
            field["description"] = meanings[name]
