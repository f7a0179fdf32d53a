"""Every variant of every family draws what transformers draws, with the same probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from jaxllm.outputs import RequestOutput
from tests.integration.helpers import GREEDY, PRIMARY, generate, start_tiny
from tests.references.reference import ReferenceCase, load_reference, tiny_reference_names

TOLERANCE = 2e-4
"""The references are rounded to five places; tanh in place of exact GELU would already change 1e-3."""


@pytest.mark.parametrize("name", tiny_reference_names())
def test_agrees_with_transformers(name):
    reference = load_reference(name)
    params = [
        GREEDY.clone(
            max_tokens=len(case.output_token_ids),
            logprobs=5,
            prompt_logprobs=None if case.prompt_logprobs is None else 0,
        )
        for case in reference.cases
    ]
    # One program less to compile for those that run nowhere else with many rows.
    with start_tiny(name, max_num_seqs=8 if name in PRIMARY else 2) as llm:
        outputs = generate(llm, reference.prompts, params)
    for output, case in zip(outputs, reference.cases, strict=True):
        check_tokens(output, case)
        check_prompt_logprobs(output, case)


def check_tokens(output: RequestOutput, case: ReferenceCase) -> None:
    completion = output.outputs[0]
    assert completion.token_ids == list(case.output_token_ids)
    assert completion.logprobs is not None
    logprobs = [
        position[token].logprob for position, token in zip(completion.logprobs, completion.token_ids, strict=True)
    ]
    np.testing.assert_allclose(logprobs, case.output_logprobs, atol=TOLERANCE)
    first = {token: entry.logprob for token, entry in completion.logprobs[0].items()}
    assert first == pytest.approx(dict(case.first_top), abs=TOLERANCE)
    assert [completion.logprobs[0][token].rank for token, _ in case.first_top] == [1, 2, 3, 4, 5]
    assert completion.cumulative_logprob == pytest.approx(sum(logprobs))


def check_prompt_logprobs(output: RequestOutput, case: ReferenceCase) -> None:
    if case.prompt_logprobs is None:
        assert output.prompt_logprobs is None
        return
    assert output.prompt_logprobs is not None
    first, *rest = output.prompt_logprobs
    assert first is None
    logprobs = [position[token].logprob for position, token in zip(rest, case.token_ids[1:], strict=True) if position]
    np.testing.assert_allclose(logprobs, case.prompt_logprobs, atol=TOLERANCE)
