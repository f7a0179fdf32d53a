"""The programs behind a step: which rows they change, and what they leave alone."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.runner.batch import HostConstraints
from jaxllm.runner.executables import Compiled
from jaxllm.runner.layout import FLAGS, Bucket, Layout
from jaxllm.runner.packed_scores import PackedScores, unpack_scores
from jaxllm.runner.sampling_rows import pack_rows, rows_shape
from jaxllm.runner.sharding import make_mesh, replicated
from jaxllm.runner.token_sampler import COUNTED_CHUNK, SampledState, TokenSampler, lower_samplers
from jaxllm.sampling_params import MAX_LOGIT_EDITS, SamplingParams
from jaxllm.steps import SlotStart

SLOTS, VOCAB, MOST, TOP = 6, 40, 8, 3
SIZES = [2, MOST]
EVERYWHERE = replicated(make_mesh("cpu", 1))
NOTHING = HostConstraints(None, None)
LOGITS = np.random.default_rng(0).standard_normal((MOST, VOCAB)).astype(np.float32)


def shape(dims: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(dims, dtype, sharding=EVERYWHERE)


SHAPES = SampledState(shape((SLOTS + 1, VOCAB), np.int16), shape((2, MOST, TOP), np.int32))


@pytest.fixture(scope="module")
def programs() -> Mapping[str, Compiled]:
    lowers = lower_samplers(
        SIZES,
        last_tokens=shape((SLOTS + 1,), np.int32),
        tokens=shape((3, MOST), np.int32),
        state=SHAPES,
        logits=shape((MOST, VOCAB), np.float32),
        rows=shape(*rows_shape(MOST)),
        logprobs_mode="raw_logprobs",
        everywhere=EVERYWHERE,
        options=None,
    )
    return {name: lower().compile() for name, lower in lowers.items()}


def put(array: Any) -> jax.Array:
    return jax.device_put(array, EVERYWHERE)


def make_start(num_outputs: int, token_id: int = 0) -> SlotStart:
    """A request in slot 4 that has generated `token_id` so often."""
    none, outputs = np.zeros(0, np.int32), np.full(num_outputs, token_id, np.int32)
    params = SamplingParams(presence_penalty=1.0)
    return SlotStart(
        slot=4, sampling_params=params, prompt_token_ids=none, output_token_ids=outputs, seed=0, stop_token_ids=()
    )


class Step:
    """What a step of the slots 4, 2 and 0 has left, and a sampler for it."""

    def __init__(self, programs: Mapping[str, Compiled], *flags: str, **values: Any) -> None:
        layout = Layout(Bucket(num_tokens=4, num_rows=4, has_chunks=False), pages_per_request=1)
        buffer = np.zeros(layout.size, np.int32)
        views = layout.views(buffer)
        views["slot"][:] = views["write_slot"][:] = [4, 2, 0, SLOTS]
        views["top_p"][:] = views["repetition_penalty"][:] = 1.0
        views["flags"][...] = sum(1 << FLAGS.index(flag) for flag in flags)
        for name, value in values.items():
            views[name][:3] = value
        self.rows = put(pack_rows(layout.unpack(jnp.asarray(buffer)), most=MOST, unused_slot=SLOTS))
        self.sampler = TokenSampler(SIZES, SHAPES, EVERYWHERE)
        arrays = put(np.full(SLOTS + 1, -5, np.int32)), put(np.full((3, MOST), -5, np.int32)), put(LOGITS)
        self.last_tokens, self.tokens = self.sampler.start(programs, *arrays, self.rows)

    def sample(self, num_rows: int = 3, constraints: HostConstraints = NOTHING) -> None:
        self.last_tokens, self.tokens = put(np.full(SLOTS + 1, -5, np.int32)), put(np.full((3, MOST), -5, np.int32))
        given = self.last_tokens, self.tokens, put(LOGITS), self.rows
        self.last_tokens, self.tokens = self.sampler.sample(num_rows, *given, constraints)


def test_tokens_go_to_their_rows_and_slots(programs: Mapping[str, Compiled]) -> None:
    step = Step(programs)
    step.sample()
    likeliest = LOGITS.argmax(axis=1).tolist()
    assert np.asarray(step.tokens)[0, :3].tolist() == likeliest[:3]
    last = np.asarray(step.last_tokens)
    assert (last[[4, 2, 0]].tolist(), last[[1, 3, 5]].tolist()) == (likeliest[:3], [-5] * 3)


def test_a_few_rows_take_the_smaller_program(programs: Mapping[str, Compiled]) -> None:
    step = Step(programs)
    step.sample(num_rows=2)
    assert (np.asarray(step.tokens)[0, 2:] == -5).all()
    assert np.asarray(step.last_tokens)[0] == -5


def test_larger_programs_do_for_smaller_ones_that_are_not_there_yet(programs: Mapping[str, Compiled]) -> None:
    larger = {name: program for name, program in programs.items() if name != "sample_2"}
    step = Step(larger)
    step.sample(num_rows=2)
    assert np.asarray(step.tokens)[0, :3].tolist() == LOGITS.argmax(axis=1)[:3].tolist()


def test_constraints_of_few_rows_leave_the_others_alone(programs: Mapping[str, Compiled]) -> None:
    ids = np.full((4, MAX_LOGIT_EDITS), -1, np.int32)
    values = np.zeros((4, MAX_LOGIT_EDITS), np.float32)
    ids[1, 0], values[1, 0] = 7, 100.0
    bitmask = np.full((4, 2), 0xFFFFFFFF, np.uint32)
    bitmask[2] = [1 << 9, 0]
    step = Step(programs, "any_edits", "any_bitmask")
    step.sample(constraints=HostConstraints((ids, values), bitmask))
    assert np.asarray(step.tokens)[0, :3].tolist() == [LOGITS[0].argmax(), 7, 9]


def test_scores_come_where_they_are_wanted(programs: Mapping[str, Compiled]) -> None:
    step = Step(programs, "any_logprobs")
    step.sample()
    scores = unpack_scores(*PackedScores(step.tokens, step.sampler.top))
    logprobs = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(scores.logprob[:3], logprobs[:3].max(axis=1), atol=1e-5)
    assert scores.top_ids[:3].tolist() == np.argsort(-LOGITS, axis=1)[:3, :TOP].tolist()


def test_drawn_tokens_are_counted_for_penalties(programs: Mapping[str, Compiled]) -> None:
    likeliest = int(LOGITS[0].argmax())
    step = Step(programs, "any_penalties", presence_penalty=[100.0, 0, 0])
    step.sampler.begin(make_start(0))
    step.sample()
    assert np.asarray(step.tokens)[0, 0] == likeliest
    step.sample()
    assert np.asarray(step.tokens)[0, 0] != likeliest


def test_a_new_request_brings_the_tokens_that_it_has(programs: Mapping[str, Compiled]) -> None:
    likeliest = int(LOGITS[0].argmax())
    step = Step(programs, "any_penalties", presence_penalty=[100.0, 0, 0])
    step.sampler.begin(make_start(COUNTED_CHUNK + 5, likeliest))
    step.sample()
    assert np.asarray(step.tokens)[0, 0] != likeliest
