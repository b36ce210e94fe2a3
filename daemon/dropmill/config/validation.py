"""From plain data to a `Config`, or to every problem in it: where, and a sentence for a person.

pydantic finds what is wrong by itself. What is wrong together is looked for in the data with the
wrong values taken out, so that all problems are told at once.
"""

from __future__ import annotations

import copy
import difflib
import typing
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from . import values
from .consistency import conflicts
from .settings import Config

Where = tuple[str | int, ...]
_LISTS = ("watch", "datasets")


class Problem(NamedTuple):
    where: Where
    text: str
    at_key: bool = False  # the key is wrong, not its value
    inside: int = 0  # where in the value the fault lies, in characters


def validate(data: object, folder: str) -> tuple[Config | None, list[Problem]]:
    """The configuration, or None with what is wrong; relative paths begin at `folder`."""
    context = {"folder": folder}
    try:
        config = Config.model_validate(data, context=context)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        problems = [_problem(fault) for fault in faults]
        wrong = {problem.where for problem in problems}
        if isinstance(data, dict):
            problems += _conflicts_of_the_rest(data, wrong, context)
        return None, problems
    problems = list(_apart_from(set(), config))
    return (None if problems else config), problems


def _conflicts_of_the_rest(
    data: dict[str, Any], wrong: set[Where], context: dict[str, str]
) -> list[Problem]:
    rest = copy.deepcopy(data)
    for where in sorted(wrong, key=len, reverse=True):
        _take_out(rest, where)
    try:
        config = Config.model_validate(rest, context=context)
    except ValidationError:
        return []
    return list(_apart_from(wrong, config))


def _apart_from(wrong: Iterable[Where], config: Config) -> Iterator[Problem]:
    for conflict in conflicts(config):
        if not any(_touch(bad, needed) for bad in wrong for needed in conflict.rests_on):
            yield Problem(conflict.where, conflict.text)


def _touch(one: Where, other: Where) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _take_out(data: dict[str, Any], where: Where) -> None:
    """Removes a wrong value; a root stays in its place, so that the others keep theirs, and so
    does a rule."""
    if where[0] == "datasets" and len(where) > 1:
        data["datasets"][where[1]] = {"match": f"\x7f{where[1]}", "aggregate": {"n": "count()"}}
        return
    if where[0] == "watch" and len(where) < 2:
        data["watch"] = [{"path": "/nonexistent/0"}]
    elif where[0] == "watch" and (len(where) == 2 or where[2] == "path"):
        data["watch"][where[1]] = {"path": f"/nonexistent/{where[1]}"}
    else:
        parent: Any = data
        # Up to the key: a list with one wrong item is taken out whole.
        names = [*where[:3]] if where[0] == "watch" else [*where[:2]]
        for name in names[:-1]:
            parent = parent[name]
        parent.pop(names[-1], None)


def _problem(fault: Any) -> Problem:
    where: Where = fault["loc"]
    kind, given, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(where, _unknown_key(where), at_key=True)
    if kind == "missing":
        return Problem(where, "is missing, and required")
    if len(where) > 3 and where[-1] == "[key]":  # of a mapping: the key is wrong
        return Problem(where[:-1], _sentence(kind, given, context) or str(fault["msg"]), True)
    inside = getattr(context.get("error"), "at", 0)
    return Problem(where, _sentence(kind, given, context) or str(fault["msg"]), inside=inside)


def _sentence(kind: str, given: object, context: dict[str, Any]) -> str | None:
    shown = values.show(given)
    if kind == "value_error":
        text = str(context["error"])
        if given is None and not text.startswith("has no value"):
            return "has no value: give one, or remove the key"
        return f"{text}, not {shown}" if text.startswith("must be at least") else text
    if given is None:
        return "has no value: give one, or remove the key"
    match kind:
        case "bool_type":
            return f"true or false was expected, not {shown}"
        case "int_type" | "int_from_float":
            return f"a whole number was expected, not {shown}"
        case "string_type":
            quotes = "" if isinstance(given, (list, dict)) else " (put it in quotes)"
            return f"a text was expected, not {shown}{quotes}"
        case "tuple_type":
            return f"a list was expected, not {shown}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f'a section ("key: value" lines) was expected, not {shown}'
        case "greater_than_equal":
            return f"must be at least {context['ge']}, not {shown}"
        case "less_than_equal":
            return f"must be at most {context['le']}, not {shown}"
        case "literal_error":
            return _no_choice(shown, given, str(context["expected"]))
    return None


def _no_choice(shown: str, given: object, expected: str) -> str:
    choices = expected.replace(" or ", ", ").replace("'", "").split(", ")
    near = difflib.get_close_matches(str(given).lower(), choices, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return f"{shown} is not one of {', '.join(choices)}{guess}"


def _unknown_key(where: Where) -> str:
    key, known = str(where[-1]), _keys_of(where[:-1])
    elsewhere = [path for path in _all_keys() if path.rpartition(".")[2] == key]
    if elsewhere:
        return f"unknown key here (did you mean {elsewhere[0]}?)"
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1)
    if near:
        return f"unknown key (did you mean {near[0]}?)"
    return f"unknown key (known here: {', '.join(known)})"


def _keys_of(where: Where) -> list[str]:
    model: type[BaseModel] = Config
    for name in where:
        if isinstance(name, str):
            model = _section(model, name) or model
    return list(model.model_fields)


def _all_keys() -> Iterator[str]:
    for name in Config.model_fields:
        yield name
        section = _section(Config, name)
        for key in section.model_fields if section else ():
            yield f"{name}[].{key}" if name in _LISTS else f"{name}.{key}"


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = model.model_fields[name].annotation
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
