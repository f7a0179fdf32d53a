"""Every SamplingParams field is applied or rejected, and a test that exists proves it."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path

import pytest

from jaxllm.errors import ValidationError
from jaxllm.sampling_params import UNSUPPORTED_DEFAULTS, SamplingParams
from tests.sampling_fields import FIELDS, table

ROOT = Path(__file__).parent.parent


@cache
def names_of_tests(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_field_has_an_entry_and_every_entry_is_a_field():
    assert set(FIELDS) == set(inspect.signature(SamplingParams).parameters)


@pytest.mark.parametrize("name", FIELDS)
def test_the_proof_exists(name):
    assert FIELDS[name].tests, f"no test proves {name}"
    for test in FIELDS[name].tests:
        path, function = test.split("::")
        assert function in names_of_tests(path), f"{test} does not exist"


def test_rejected_fields_are_those_that_reject():
    rejected = {name for name, field in FIELDS.items() if field.status == "rejected"}
    legacy = {"best_of", "use_beam_search", "early_stopping", "logits_processors", "guided_decoding"}
    assert rejected == set(UNSUPPORTED_DEFAULTS) | legacy
    for name in rejected:
        with pytest.raises(ValidationError, match=name):
            SamplingParams(**{name: 99})


def test_the_table_has_a_line_a_field():
    assert len(table().splitlines()) == len(FIELDS)
