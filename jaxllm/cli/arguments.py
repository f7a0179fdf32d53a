"""Command lines with vLLM's freedoms, rewritten into the plain flags that typer parses.

A flag may be written with underscores; several values may follow a flag that takes several, or a JSON list; a flag that
takes a mapping takes JSON, or single entries as `--flag.key value` (and `--flag.key+ a,b`, which appends to a list).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxllm.errors import ValidationError


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag of a command."""

    name: str
    """The parameter that it sets."""
    spellings: tuple[str, ...]
    """With their dashes, such as `--max-model-len` or `-tp`; the first is the canonical one."""
    negations: tuple[str, ...] = ()
    """What turns a switch off, such as `--no-stream`."""
    kind: Literal["value", "values", "switch", "mapping"]
    """What follows it: one value, at least one, nothing, or a JSON object."""
    key: str | None = None
    """The flag sets this entry of the mapping `name`, instead of a parameter of its own."""

    @property
    def config_keys(self) -> tuple[str, ...]:
        """How a configuration file may call it, with underscores."""
        return tuple(as_name(spelling) for spelling in self.spellings if spelling.startswith("--"))


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change of a mapping: `value` is put at `path`, an empty path being the whole mapping."""

    path: tuple[str, ...]
    value: Any
    is_appended: bool = False
    """Whether `value` is a list that extends the one at `path`."""


@dataclass(kw_only=True)
class GivenArguments:
    """What a command line says, by parameter."""

    values: dict[str, list[Any]] = field(default_factory=dict)
    """Texts in order; booleans of switches; `Edit`s of mappings."""
    rest: list[str] = field(default_factory=list)
    """Positional arguments, and all that isn't understood, for typer to complain about."""

    def add(self, name: str, *values: Any) -> None:
        """Appends to what was given for a parameter."""
        self.values.setdefault(name, []).extend(values)

    def as_command_line(self, flags: Iterable[Flag]) -> list[str]:
        """The same in canonical form; a mapping becomes one JSON object."""
        line: list[str] = []
        for flag in flags:
            given = self.values.get(flag.name, []) if flag.key is None else []
            if flag.kind == "switch":
                line += [flag.spellings[0] if is_on else flag.negations[0] for is_on in given[-1:]]
            elif flag.kind == "mapping" and given:
                line += [flag.spellings[0], json.dumps(apply_edits(flag.spellings[0], given))]
            else:
                line += [text for value in given for text in (flag.spellings[0], value)]
        return [*line, *self.rest]


def as_name(spelling: str) -> str:
    """A flag's or configuration key's name without dashes: `--max-model-len` is `max_model_len`."""
    return spelling.lstrip("-").replace("-", "_")


def read_arguments(arguments: Sequence[str], flags: Iterable[Flag]) -> GivenArguments:
    """Sorts a command line by parameter."""
    known = {spelling: flag for flag in flags for spelling in (*flag.spellings, *flag.negations)}
    given = GivenArguments()
    left = list(arguments)
    while left:
        token = left.pop(0)
        if token == "--":
            given.rest += [token, *left]
            break
        spelling, dotted, inline = _split(token)
        flag = known.get(spelling)
        if flag is None or (flag.kind == "switch" and (inline or dotted)) or (dotted and flag.kind != "mapping"):
            given.rest.append(spelling + dotted + "".join(f"={value}" for value in inline))
        elif flag.kind == "switch":
            is_on = spelling not in flag.negations
            given.add(flag.name, is_on if flag.key is None else Edit(path=(flag.key,), value=is_on))
        elif not inline and not left:
            given.rest.append(spelling)  # typer says that a value is missing
        else:
            values = inline or [left.pop(0)]
            if flag.kind == "values" and not inline:
                values += _take_values(left)
            given.add(flag.name, *_as_given(flag, dotted, values))
    return given


def _split(token: str) -> tuple[str, str, list[str]]:
    """A token's flag with dashes for underscores, the dotted key behind it, and the value behind "=", if any."""
    if not token.startswith("-"):
        return token, "", []
    head, equals, value = token.partition("=")
    spelling, dot, key = head.partition(".")
    if spelling.startswith("--"):
        spelling = f"--{spelling[2:].replace('_', '-')}"
    return spelling, dot + key, [value] if equals else []


def _take_values(left: list[str]) -> list[str]:
    """Removes the values up to the next flag."""
    count = next((index for index, token in enumerate(left) if token.startswith("-")), len(left))
    values, left[:] = left[:count], left[count:]
    return values


def _as_given(flag: Flag, dotted: str, values: list[str]) -> list[Any]:
    if flag.key is not None:
        return [Edit(path=(flag.key,), value=parse_value(values[0]))]
    if flag.kind == "values":
        return [item for text in values for item in _as_list(text)]
    if flag.kind == "value":
        return list(values)
    is_appended = dotted.endswith("+")
    path = tuple(dotted[1:].removesuffix("+").split(".")) if dotted else ()
    if not path:
        return [Edit(path=path, value=_parse_mapping(flag.spellings[0], values[0]))]
    if is_appended:
        return [Edit(path=path, value=[parse_value(text) for text in values[0].split(",")], is_appended=True)]
    return [Edit(path=path, value=parse_value(values[0]))]


def parse_value(text: str) -> Any:
    """JSON where the text is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _as_list(text: str) -> list[str]:
    """The strings of a JSON list, or else the text alone."""
    value = parse_value(text) if text.startswith("[") else None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else [text]


def _parse_mapping(spelling: str, text: str) -> dict[str, Any]:
    value = parse_value(text)
    if not isinstance(value, dict):
        raise ValidationError(f"{spelling} must be a JSON object, got {text}", parameter=as_name(spelling))
    return value


def apply_edits(spelling: str, edits: Iterable[Edit]) -> dict[str, Any]:
    """The mapping that the changes leave, made in their order."""
    result: dict[str, Any] = {}
    for edit in edits:
        if not edit.path:
            result = dict(edit.value)
            continue
        *parents, last = edit.path
        target = result
        for parent in parents:
            child = target.get(parent, {})
            if not isinstance(child, Mapping):
                raise ValidationError(
                    f"{spelling}.{'.'.join(edit.path)} needs an object at {parent}, got {child!r}",
                    parameter=as_name(spelling),
                )
            target[parent] = target = dict(child)
        target[last] = [*_list_at(target, last), *edit.value] if edit.is_appended else edit.value
    return result


def _list_at(target: Mapping[str, Any], key: str) -> list[Any]:
    value = target.get(key, [])
    return list(value) if isinstance(value, list) else [value]
