import numpy as np
import pytest

from jaxllm.engine.request import Request
from tests.engine.helpers import Params, make_internal, make_request


def with_prompt(prompt: list[int], *, max_tokens: int = 8, max_model_len: int = 1000, **options) -> Request:
    source = make_request("r", prompt, params=Params(max_tokens=max_tokens), **options)
    return make_internal(source, max_model_len=max_model_len)


def test_keeps_prompt_and_outputs_in_one_row() -> None:
    request = with_prompt([5, 6, 7], max_tokens=200)
    for token_id in range(150):
        request.append_token(token_id)
    assert request.token_ids.tolist() == [5, 6, 7, *range(150)]
    assert request.token_ids.dtype == np.int32
    assert request.num_output_tokens == 150


def test_arrays_given_out_keep_their_content_when_the_request_grows() -> None:
    request = with_prompt([5, 6, 7])
    token_ids = request.token_ids
    request.set_pages([3, 4])
    page_ids = request.page_ids
    for page_id in range(20):
        request.append_page(page_id + 5)
        request.append_token(1)
    request.set_pages([9])
    assert token_ids.tolist() == [5, 6, 7]
    assert page_ids.tolist() == [3, 4]
    assert request.page_ids.tolist() == [9]


def test_counts_pages_in_order() -> None:
    request = with_prompt([5])
    request.set_pages([])
    for page_id in range(1, 31):
        request.append_page(page_id)
    assert request.page_ids.tolist() == list(range(1, 31))


def test_max_tokens_ends_at_the_models_length() -> None:
    assert with_prompt([1, 2, 3], max_tokens=10, max_model_len=8).max_total_tokens == 8
    assert with_prompt([1, 2, 3], max_tokens=2, max_model_len=8).max_total_tokens == 5


def test_can_decode_with_one_pending_token() -> None:
    request = with_prompt([1, 2, 3], max_tokens=3)
    assert not request.can_decode
    request.num_computed_tokens, request.num_unread = 3, 1
    assert request.can_decode


def test_can_not_decode_when_its_last_token_is_in_flight() -> None:
    request = with_prompt([1, 2, 3], max_tokens=1)
    request.num_computed_tokens, request.num_unread = 3, 1
    assert not request.can_decode


def test_long_bad_words_wait_for_unread_tokens() -> None:
    request = with_prompt([1, 2, 3], bad_word_ids=((4,), (4, 5, 6)))
    request.num_computed_tokens, request.num_unread = 3, 1
    assert request.num_recent_tokens == 2
    assert not request.can_decode
    request.append_token(4)
    request.num_unread = 0
    assert request.can_decode


def test_bad_words_of_one_token_wait_for_nothing() -> None:
    assert with_prompt([1], bad_word_ids=((4,), (5,))).num_recent_tokens == 0


def test_ignore_eos_drops_eos_ids_only() -> None:
    params = Params(ignore_eos=True, stop_token_ids=(3,))
    request = make_internal(make_request("r", [1], params=params, eos_token_ids=(2,)))
    assert (request.eos_token_ids, request.stop_token_ids) == (frozenset(), frozenset({3}))


@pytest.mark.parametrize(
    ("params", "reads"),
    [
        (Params(), True),
        (Params(skip_reading_prefix_cache=False), True),
        (Params(skip_reading_prefix_cache=True), False),
        (Params(prompt_logprobs=0), False),
    ],
)
def test_reads_the_prefix_cache_unless_every_position_is_wanted(params: Params, reads: bool) -> None:
    request = make_internal(make_request("r", [1], params=params))
    assert request.reads_prefix_cache is reads
