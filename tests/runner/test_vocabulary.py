from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.runner.vocabulary import argmax, lowest_within, reduce_groups, top_tokens


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 500, 1024, 1037])
@pytest.mark.parametrize("k", [0, 1, 7, 20])
def test_top_tokens_agree_with_a_stable_sort(vocab_size, k):
    k = min(k, vocab_size)
    values = np.random.default_rng(vocab_size).integers(-9, 9, (5, vocab_size)).astype(np.float32)
    best, ids = top_tokens(jnp.asarray(values), k)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :k]
    assert ids.tolist() == expected.tolist()
    assert best.tolist() == np.take_along_axis(values, expected, axis=1).tolist()


def test_top_tokens_survive_rows_that_are_mostly_minus_infinity():
    values = np.full((2, 1037), -np.inf, np.float32)
    values[0, [1036, 5]] = [2.0, 1.0]
    values[1, 1030:] = np.arange(7)
    best, ids = top_tokens(jnp.asarray(values), 4)
    assert ids[0, :2].tolist() == [1036, 5]
    assert best[0, 2:].tolist() == [-np.inf, -np.inf]
    assert ids[1].tolist() == [1036, 1035, 1034, 1033]


def test_asking_for_more_than_the_vocabulary_is_our_mistake():
    with pytest.raises(AssertionError, match="more top tokens than the vocabulary has"):
        top_tokens(jnp.zeros((1, 4)), 5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_argmax_takes_the_lowest_id_among_equals(dtype):
    values = jnp.asarray(np.random.default_rng(0).integers(-5, 5, (50, 130)), dtype)
    ids, maximum = argmax(values)
    assert ids.tolist() == np.asarray(values, np.float32).argmax(axis=1).tolist()
    assert maximum.tolist() == np.asarray(values, np.float32).max(axis=1).tolist()


def test_reduce_groups_keeps_a_short_last_group():
    assert reduce_groups(jnp.arange(10.0)[None], 4, jnp.sum).tolist() == [[6.0, 22.0, 17.0]]


@pytest.mark.parametrize("k", [1, 2, 30, 100])
def test_bisection_leaves_the_k_largest(k):
    rng = np.random.default_rng(k)
    values = np.concatenate([rng.normal(0, 1e-3, (6, 60)), rng.normal(0, 1e8, (6, 40))], axis=1).astype(np.float32)
    array = jnp.asarray(values)

    def count_above(value: jax.Array) -> jax.Array:
        return (array > value[:, None]).sum(axis=-1)

    lowest = lowest_within(count_above, jnp.full(6, k), array.max(axis=-1))
    assert (values >= np.asarray(lowest)[:, None]).sum(axis=1).tolist() == [k] * 6


def test_bisection_is_minus_infinity_when_everything_is_within():
    values = jnp.asarray([[1.0, -jnp.inf, 0.0]])
    lowest = lowest_within(lambda value: (values > value[:, None]).sum(axis=-1), jnp.array([3]), jnp.array([1.0]))
    assert lowest.tolist() == [-np.inf]
