"""SmolLM2-135M in float32 finds the beams that transformers finds, token by token and score by score."""

from __future__ import annotations

import pytest

from jaxllm.beam_search_params import BeamSearchParams
from tests.integration.helpers import as_prompts, found_beams, needs_smollm2, start_smollm2
from tests.references.beam_reference import load_beam_reference

pytestmark = [needs_smollm2, pytest.mark.slow]


@pytest.fixture(scope="module")
def llm():
    with start_smollm2() as llm:
        yield llm


@pytest.fixture(scope="module")
def reference():
    return load_beam_reference("smollm2-135m")


@pytest.mark.parametrize("width", [2, 4, 8])
def test_finds_what_transformers_finds(llm, reference, width):
    assert len(reference.cases) == 20
    params = BeamSearchParams(beam_width=width, max_tokens=reference.num_tokens, ignore_eos=True)
    outputs = llm.beam_search(as_prompts(case.token_ids for case in reference.cases), params)
    for output, case in zip(outputs, reference.cases, strict=True):
        found, expected = found_beams(output), case.beams[width]
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
        assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-3)


def test_beams_that_end_with_eos(llm, reference):
    """Four of the searches are transformers' own; in the others it ends fewer beams, as `BeamSearchParams` tells."""
    assert set(llm._built.model_config.eos_token_ids) == set(reference.eos_token_ids)
    assert sum(case.is_transformers for case in reference.eos_cases) == 4
    params = BeamSearchParams(beam_width=4, max_tokens=reference.eos_num_tokens)
    outputs = llm.beam_search(as_prompts(case.token_ids for case in reference.eos_cases), params)
    for output, case in zip(outputs, reference.eos_cases, strict=True):
        found = found_beams(output)
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in case.beams]
        assert [score for _, score in found] == pytest.approx([score for _, score in case.beams], abs=1e-3)
        reasons = [sequence.completion.finish_reason for sequence in output.sequences]
        assert reasons == ["stop" if tokens[-1] in reference.eos_token_ids else "length" for tokens, _ in case.beams]
