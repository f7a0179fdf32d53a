"""`--config file.yaml`: flags written in a file, under those of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxllm.cli.arguments import Edit, Flag, GivenArguments, as_name
from jaxllm.errors import ValidationError


def add_config_file(given: GivenArguments, path: str, flags: Sequence[Flag]) -> None:
    """Adds the values of a YAML file for all parameters that the command line doesn't set.

    Single entries that the command line puts into a mapping (`--flag.key value`) go on top of the file's mapping.
    """
    by_key = {key: flag for flag in flags for key in flag.config_keys}
    from_file = GivenArguments()
    for key, value in _read_mapping(path).items():
        flag = by_key.get(as_name(str(key)))
        if flag is None:
            raise _unknown_key(path, str(key), by_key)
        if value is not None:
            from_file.add(flag.name, *_as_given(path, str(key), value, flag))
    for name, values in from_file.values.items():
        ours = given.values.get(name, [])
        if not ours or isinstance(ours[0], Edit):
            given.values[name] = [*values, *ours]


def _read_mapping(path: str) -> dict[Any, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValidationError(f"--config {path} can't be read: {error.strerror}", parameter="config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValidationError(f"--config {path} is no YAML: {reason}", parameter="config") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValidationError(f"--config {path} must hold a mapping from flags to values, got a {kind}")
    return content


def _unknown_key(path: str, key: str, known: dict[str, Flag]) -> ValidationError:
    near = [name.replace("_", "-") for name in difflib.get_close_matches(as_name(key), known, n=3)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return ValidationError(f"{path}: unknown key {key!r}{hint}", parameter=key)


def _as_given(path: str, key: str, value: Any, flag: Flag) -> list[Any]:
    """A YAML value as the command line would give it; one of the wrong kind is an error."""
    if flag.key is not None:
        return [Edit(path=(flag.key,), value=value)]
    if flag.kind == "mapping" and isinstance(value, dict):
        return [Edit(path=(), value=value)]
    if flag.kind == "switch" and isinstance(value, bool):
        return [value]
    if flag.kind == "values" and isinstance(value, list) and all(_is_scalar(item) for item in value):
        return [_as_text(item) for item in value]
    if flag.kind in ("value", "values") and _is_scalar(value):
        return [_as_text(value)]
    expected = {"mapping": "a mapping", "switch": "true or false", "values": "a value or a list of values"}
    raise ValidationError(
        f"{path}: {key} must be {expected.get(flag.kind, 'one value')}, got {value!r}", parameter=flag.name
    )


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, (dict, list))


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
