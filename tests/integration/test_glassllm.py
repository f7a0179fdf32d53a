"""The smallest real model with its real tokenizer: texts, streams and stops."""

from __future__ import annotations

import pytest

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from tests.integration.helpers import drawn, found_beams, needs_glassllm, replanned
from tests.integration.host_beam_search import search_on_host
from tests.references.reference import load_reference

pytestmark = needs_glassllm

GREEDY = SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True)
PROMPT = "Alice was beginning to"
TEXT = (
    " the\nQueen to the Queen, and she found it was saying to herself, and\nshe was so much a little fellow.\n\n"
    "Alice was so much very curiously at the Queen, and she found it\n"
    "didn\u2019t help the White Queen, and she found it was saying to"
)


@pytest.fixture(scope="module")
def reference():
    return load_reference("glassllm-en")


def complete(llm, prompt=PROMPT, params=GREEDY):
    return llm.generate(prompt, params, use_tqdm=False)[0].outputs[0]


def test_texts_agree_with_transformers(glassllm, reference):
    outputs = glassllm.generate([case.text for case in reference.cases], GREEDY, use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == reference.prompts
    assert drawn(outputs) == reference.outputs
    decode = glassllm.get_tokenizer().decode
    assert [output.outputs[0].text for output in outputs] == [decode(ids) for ids in reference.outputs]


def test_the_text_is_like_the_books(glassllm):
    assert complete(glassllm).text == TEXT


@pytest.mark.parametrize("stream_interval", [None, 5])
def test_stream_adds_up_to_the_text(glassllm, reference, stream_interval):
    params = GREEDY.clone(output_kind=RequestOutputKind.DELTA, stream_interval=stream_interval)
    prompts = [case.text for case in reference.cases]
    whole = glassllm.generate(prompts, GREEDY, use_tqdm=False)
    pieces: dict[str, list[str]] = {}
    token_ids: dict[str, list[int]] = {}
    for output in glassllm.generate(prompts, params, stream=True):
        pieces.setdefault(output.request_id, []).append(output.outputs[0].text)
        token_ids.setdefault(output.request_id, []).extend(output.outputs[0].token_ids)
    in_order = sorted(pieces, key=int)
    assert ["".join(pieces[request_id]) for request_id in in_order] == [output.outputs[0].text for output in whole]
    assert [token_ids[request_id] for request_id in in_order] == drawn(whole)
    assert min(len(parts) for parts in pieces.values()) >= 64 // (stream_interval or 2)


def test_a_stream_shows_no_part_of_a_stop_string(glassllm):
    params = GREEDY.clone(stop=["saying to herself, and", "zzz"])
    texts = [output.outputs[0].text for output in glassllm.generate(PROMPT, params, stream=True)]
    assert texts[-1] == TEXT[: TEXT.index("saying to herself")]
    assert all(texts[-1].startswith(text) for text in texts)
    assert complete(glassllm, params=params).stop_reason == "saying to herself, and"


@pytest.mark.parametrize("include", [False, True])
def test_stop_string_inside_a_token(glassllm, include):
    completion = complete(glassllm, params=GREEDY.clone(stop="uriou", include_stop_str_in_output=include))
    assert completion.text == TEXT[: TEXT.index("uriou") + len("uriou") * include]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", "uriou")
    decoded = glassllm.get_tokenizer().decode(completion.token_ids)
    assert "uriou" in decoded
    assert TEXT.startswith(decoded)


def test_stop_token_ids(glassllm, reference):
    first = reference.outputs[0]
    stop = next(token for token in first[20:] if token not in first[:20])
    completion = complete(glassllm, params=GREEDY.clone(stop_token_ids=[stop]))
    assert completion.token_ids == first[: first.index(stop) + 1]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)


def test_eos_ends_and_min_tokens_holds_it_back(glassllm):
    eos = glassllm.get_tokenizer().eos_token_id
    likely = GREEDY.clone(ignore_eos=False, logit_bias={eos: 100.0})
    completion = complete(glassllm, params=likely)
    assert (completion.token_ids, completion.text, completion.finish_reason) == ([eos], "", "stop")
    later = complete(glassllm, params=likely.clone(min_tokens=10))
    assert later.token_ids[-1] == eos
    assert len(later.token_ids) == 11
    assert eos not in later.token_ids[:-1]
    assert TEXT.startswith(later.text)


def test_bad_words_are_avoided(glassllm):
    words = ["Queen", "Alice was", "herself"]
    text = complete(glassllm, params=GREEDY.clone(bad_words=words)).text
    assert text
    assert not any(word in text for word in words)
    assert all(word in TEXT for word in words)


def test_logprobs_carry_texts(glassllm):
    completion = complete(glassllm, params=GREEDY.clone(logprobs=3))
    assert all(len(position) == 3 for position in completion.logprobs)
    chosen = [position[token] for position, token in zip(completion.logprobs, completion.token_ids, strict=True)]
    assert "".join(entry.decoded_token for entry in chosen) == TEXT
    assert {entry.rank for entry in chosen} == {1}


def test_max_tokens_none_fills_the_context(glassllm):
    output = glassllm.generate(PROMPT, GREEDY.clone(max_tokens=None), use_tqdm=False)[0]
    assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == glassllm.max_model_len
    assert output.outputs[0].finish_reason == "length"


def test_closing_a_stream_aborts(glassllm):
    before = glassllm.get_metrics()
    stream = glassllm.generate([PROMPT] * 3, GREEDY, stream=True)
    next(stream)
    stream.close()
    assert complete(glassllm).text == TEXT
    after = glassllm.get_metrics()
    assert after.finished_by_reason["abort"] - before.finished_by_reason.get("abort", 0) == 3
    assert (after.num_running, after.num_waiting, after.kv_cache_usage) == (0, 0, 0.0)


def test_beam_search_as_the_documentation_prints_it(glassllm):
    params = BeamSearchParams(beam_width=5, max_tokens=50)
    outputs = glassllm.generate(PROMPT, params, use_tqdm=False)
    for output in outputs:
        assert output.prompt == PROMPT
        assert output.outputs[0].text == glassllm.get_tokenizer().decode(output.outputs[0].token_ids)
    (searched,) = glassllm.beam_search([{"prompt": PROMPT}], params)
    assert [one.text for one in searched.sequences] == [PROMPT + one.text for one in outputs[0].outputs]
    best, greedy = searched.sequences[0], complete(glassllm, params=GREEDY.clone(max_tokens=50, logprobs=0))
    assert best.cum_logprob > greedy.cumulative_logprob


def test_beam_search_finds_what_the_host_finds(glassllm):
    llm, params = replanned(glassllm), BeamSearchParams(beam_width=5, max_tokens=24, ignore_eos=True)
    (output,) = llm.beam_search(PROMPT, params)
    expected = search_on_host(llm, output.prompt_token_ids, params)
    assert expected.margin > 1e-4
    assert [tokens for tokens, _ in found_beams(output)] == [tokens for tokens, _ in expected.beams]
    glassllm.reset_prefix_cache()  # the two engines wrote into the same pages
