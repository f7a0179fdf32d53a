from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.runner.beam_groups import BeamGroup
from jaxllm.runner.beam_selection import BeamOutputs, Candidates, pack_outputs
from jaxllm.runner.packed_scores import PackedScores
from jaxllm.runner.results import DispatchedStep
from jaxllm.runner.sampler import TokenScores
from jaxllm.sampling_params import SamplingParams
from jaxllm.steps import NO_TARGET, BeamSettings, ScheduledRequest, ScheduledStep, TokenLogprobs

PLAIN = SamplingParams()


def make_scores(num_rows: int) -> TokenScores:
    """Row r: logprob -r, rank r + 1, top ids 10 r, 10 r + 1 and so on."""
    rows = jnp.arange(num_rows, dtype=jnp.int32)
    top_ids = rows[:, None] * 10 + jnp.arange(3, dtype=jnp.int32)[None]
    return TokenScores(-rows.astype(jnp.float32), rows + 1, top_ids, -top_ids.astype(jnp.float32))


def make_request(name: str, num_tokens: int = 1, **fields: Any) -> ScheduledRequest:
    given: dict[str, Any] = {"samples": True, "num_output_tokens": 0, **fields}
    nothing = np.zeros(0, np.int32)
    return ScheduledRequest(name, 0, 0, num_tokens, None, nothing, **given)


def make_beams(num_rows: int) -> BeamOutputs:
    """Place p: parent p, token 10 p, score -p."""
    places = jnp.arange(num_rows, dtype=jnp.int32)
    scores = make_scores(num_rows)
    return BeamOutputs(
        places,
        10 * places,
        -places.astype(jnp.float32),
        Candidates(scores.top_ids, scores.top_logprobs, scores.top_ids + 1),
    )


def pack(token_ids: jax.Array, scores: TokenScores) -> PackedScores:
    rows, top = scores.top_ids.shape
    empty = PackedScores(jnp.zeros((3, rows), jnp.int32), jnp.zeros((2, rows, top), jnp.int32))
    return empty.replace_rows(token_ids, scores)


def dispatch(*rows: tuple[ScheduledRequest, SamplingParams], beam_groups: Sequence[BeamGroup] = ()) -> DispatchedStep:
    """A step whose row r drew token 100 + r, padded to four rows and eight tokens."""
    drawn = pack(jnp.arange(100, 104, dtype=jnp.int32), make_scores(4))
    fetched = {"tokens": drawn.tokens, "top": drawn.top, "prompt": pack(jnp.zeros(8, jnp.int32), make_scores(8))}
    requests, params = zip(*rows, strict=True)
    beams = pack_outputs(make_beams(4)) if beam_groups else None
    step = ScheduledStep(step_id=5, requests=requests)
    return DispatchedStep(step, params, fetched.__getitem__, beam_groups, beams)


def summary(logprobs: TokenLogprobs) -> tuple[int, float, int, list[int]]:
    assert logprobs.top_logprobs.tolist() == [-token_id for token_id in logprobs.top_token_ids]
    return logprobs.token_id, logprobs.logprob, logprobs.rank, logprobs.top_token_ids.tolist()


def test_rows_that_sample_get_their_token() -> None:
    step = dispatch((make_request("a"), PLAIN), (make_request("b", samples=False), PLAIN), (make_request("c"), PLAIN))
    result = step.result()
    assert (result.step_id, result.token_ids) == (5, {"a": 100, "c": 102})
    assert (result.logprobs, result.prompt_logprobs) == ({}, {})
    assert step.is_ready()


def test_logprobs_are_cut_to_what_each_request_asked_for() -> None:
    result = dispatch(
        (make_request("a"), PLAIN),
        (make_request("b"), SamplingParams(logprobs=2)),
        (make_request("c"), SamplingParams(logprobs=0)),
        (make_request("d", samples=False), SamplingParams(logprobs=1)),
    ).result()
    assert {name: summary(logprobs) for name, logprobs in result.logprobs.items()} == {
        "b": (101, -1.0, 2, [10, 11]),
        "c": (102, -2.0, 3, []),
    }


def test_minus_one_keeps_all_logprobs() -> None:
    result = dispatch((make_request("a"), SamplingParams(logprobs=-1))).result()
    assert summary(result.logprobs["a"]) == (100, 0.0, 1, [0, 1, 2])


def test_prompt_logprobs_are_those_of_the_request_s_own_tokens() -> None:
    targets = np.array([41, 42, NO_TARGET], np.int32)
    result = dispatch(
        (make_request("a", 2), PLAIN),
        (make_request("b", 3, prompt_logprob_targets=targets), SamplingParams(prompt_logprobs=1)),
    ).result()
    assert {name: [summary(one) for one in found] for name, found in result.prompt_logprobs.items()} == {
        "b": [(41, -2.0, 3, [20]), (42, -3.0, 4, [30])]
    }


def test_beam_searches_get_their_beams_and_no_token() -> None:
    group = BeamGroup("b", 1, 2, 0, BeamSettings(width=1), ())
    result = dispatch(
        (make_request("a"), PLAIN),
        (make_request("b", beam_score=-1.0), PLAIN),
        (make_request("b", beam_score=-2.0), PLAIN),
        beam_groups=[group],
    ).result()
    assert result.token_ids == {"a": 100}
    assert result.beams["b"].token_ids.tolist() == [0]
    assert result.beams["b"].candidate_ids.tolist() == [[10, 11], [20, 21]]


def test_beams_are_not_read_from_a_step_without_any() -> None:
    assert dispatch((make_request("a"), PLAIN)).result().beams == {}
