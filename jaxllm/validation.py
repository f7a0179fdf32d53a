"""Checks of single values that a user gave: each returns the plain Python value or says what was expected."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from jaxllm.errors import ValidationError


def describe(value: object) -> str:
    """The value and its type, shortened so that an error message stays readable."""
    text = repr(value)
    if len(text) > 80:
        text = f"{text[:77]}..."
    return f"{text} ({type(value).__name__})"


def fail(name: str, expected: str, value: object) -> ValidationError:
    """The error for a parameter that should have been `expected`."""
    return ValidationError(f"{name} must be {expected}, got {describe(value)}", parameter=name)


def check_bool(name: str, value: Any) -> bool:
    """A bool; numpy's is fine, 0 and 1 are not."""
    if not isinstance(value, (bool, np.bool_)):
        raise fail(name, "a bool", value)
    return bool(value)


def check_int(name: str, value: Any, *, low: int | None = None, high: int | None = None) -> int:
    """An integer within [low, high]; numpy's integers are fine, bools and floats are not."""
    expected = f"an integer{_range(low, high)}"
    if isinstance(value, (bool, np.bool_)):
        raise fail(name, expected, value)
    try:
        result = operator.index(value)
    except TypeError:
        raise fail(name, expected, value) from None
    if (low is not None and result < low) or (high is not None and result > high):
        raise fail(name, expected, value)
    return result


def check_float(name: str, value: Any, *, low: float | None = None, high: float | None = None) -> float:
    """A finite number within [low, high]; integers and numpy's numbers are fine, bools are not."""
    expected = f"a finite number{_range(low, high)}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise fail(name, expected, value)
    try:
        result = float(value)
    except OverflowError:
        raise fail(name, expected, value) from None
    if not math.isfinite(result) or (low is not None and result < low) or (high is not None and result > high):
        raise fail(name, expected, value)
    return result


def check_str(name: str, value: Any) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise fail(name, "a string that is not empty", value)
    return value


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """One of the given words."""
    if not isinstance(value, str) or value not in choices:
        raise fail(name, "one of " + ", ".join(repr(choice) for choice in choices), value)
    return value


def check_list[Item](name: str, value: Any, check_item: Callable[[str, Any], Item], expected: str) -> list[Item]:
    """A fresh list of checked items from any iterable that is neither a string nor a mapping."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise fail(name, expected, value)
    try:
        items = list(value)
    except TypeError:  # a 0-d array claims to be iterable
        raise fail(name, expected, value) from None
    return [check_item(f"{name}[{index}]", item) for index, item in enumerate(items)]


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    if high is None:
        return f" of at least {low}"
    if low is None:
        return f" of at most {high}"
    return f" from {low} to {high}"
