"""Writes the beam search references of SmolLM2-135M-Instruct from its GGUF file. Needs torch and some ten minutes.

python -m tests.references.make_beams SmolLM2-135M-Instruct.Q4_1.gguf
"""

# torch lives in a second environment.
# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from tests.references.gguf_models import build_llama, read_gguf, smollm2_tokenizer
from tests.references.reference import DATA_DIRECTORY
from tests.references.texts import CLASSIC, MIDDLE, SHORT

WIDTHS = (2, 4, 8)
NUM_PROMPTS = 20
NUM_TOKENS = 32
MINIMUM_MARGIN = 2e-4
EOS_TOKEN_IDS = [2, 0]
"""<|im_end|> and <|endoftext|>."""
PADDING = 49151
"""The last token of the vocabulary, which no result holds."""
EOS_WIDTH = 4
EOS_NUM_TOKENS = 24
QUESTIONS = (
    "What is the capital of France? Answer with one word.",
    "What is 2 + 2? Answer with a number only.",
    "Say hello.",
    "Is the sky blue? Answer yes or no.",
    "Name a color.",
    "Name an animal that can fly.",
    "Which month comes after May?",
    "Is water wet?",
    "How many days are in a week?",
    "What is the opposite of hot?",
    "Thank you!",
    "Who wrote Hamlet?",
)


class Beam(NamedTuple):
    """A result: what was generated, and its summed log-probability."""

    token_ids: list[int]
    cum_logprob: float


class Search(NamedTuple):
    """Results, best first, and the smallest gap between scores that decided something."""

    beams: list[Beam]
    margin: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    file = read_gguf(arguments.path)
    model, tokenizer = build_llama(file), smollm2_tokenizer(file)
    record = {
        "made_with": {"transformers": transformers.__version__, "torch": torch.__version__, "dtype": "float32"},
        "file": arguments.path.name,
        "num_tokens": NUM_TOKENS,
        "eos_token_ids": EOS_TOKEN_IDS,
        "eos_num_tokens": EOS_NUM_TOKENS,
    }
    cases = list(_cases_without_eos(model, tokenizer))
    eos_cases = list(_cases_with_eos(model, tokenizer))
    head = json.dumps(record, indent=1)[:-2]
    lines = [",\n".join(f"  {json.dumps(case, ensure_ascii=False)}" for case in each) for each in (cases, eos_cases)]
    text = f'{head},\n "cases": [\n{lines[0]}\n ],\n "eos_cases": [\n{lines[1]}\n ]\n}}\n'
    (DATA_DIRECTORY / "smollm2-135m" / "beams.json").write_text(text, encoding="utf-8")


def _cases_without_eos(model: Any, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Prompts whose results are firm for every width."""
    num_found = 0
    for text in (*CLASSIC, *SHORT, *MIDDLE):
        token_ids = tokenizer.encode(text)
        searches = {width: search_with_transformers(model, token_ids, width, NUM_TOKENS, None) for width in WIDTHS}
        margin = min(search.margin for search in searches.values())
        print(len(token_ids), f"{margin:.5f}", repr(text[:40]), flush=True)
        if margin < MINIMUM_MARGIN:
            continue
        yield {
            "text": text,
            "token_ids": token_ids,
            "margin": round(margin, 6),
            "beams": {str(width): _rounded(search.beams) for width, search in searches.items()},
        }
        num_found += 1
        if num_found == NUM_PROMPTS:
            return
    raise SystemExit(f"only {num_found} of {NUM_PROMPTS} prompts are firm")


def _cases_with_eos(model: Any, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Chats with firm results of which some end with EOS, and whether transformers finds the same."""
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        token_ids = tokenizer.encode(text)
        search = search_by_definition(model, token_ids, EOS_WIDTH, EOS_NUM_TOKENS, EOS_TOKEN_IDS)
        if search.margin < MINIMUM_MARGIN or not any(beam.token_ids[-1] in EOS_TOKEN_IDS for beam in search.beams):
            continue
        peer = search_with_transformers(model, token_ids, EOS_WIDTH, EOS_NUM_TOKENS, EOS_TOKEN_IDS)
        is_same = [beam.token_ids for beam in peer.beams] == [beam.token_ids for beam in search.beams]
        print(f"{search.margin:.5f}", "same" if is_same else "other", repr(question), flush=True)
        yield {
            "text": text,
            "token_ids": token_ids,
            "margin": round(search.margin, 6),
            "is_transformers": is_same,
            "beams": _rounded(search.beams),
        }


@torch.inference_mode()
def search_with_transformers(
    model: Any, token_ids: Sequence[int], width: int, num_tokens: int, eos_token_ids: list[int] | None
) -> Search:
    """`generate` of one prompt alone. Scores are divided by length there; sums come back.

    The margin is that of a search without EOS, recomputed from the log-probabilities of each step.
    """
    prompt = torch.tensor([list(token_ids)])
    model.generation_config.eos_token_id = eos_token_ids
    generated = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        num_beams=width,
        num_return_sequences=width,
        do_sample=False,
        early_stopping="never",
        length_penalty=1.0,
        max_new_tokens=num_tokens,
        pad_token_id=PADDING,
        output_scores=True,
        return_dict_in_generate=True,
    )
    beams = []
    for sequence, score in zip(generated.sequences[:, prompt.shape[1] :], generated.sequences_scores, strict=True):
        tokens = [token for token in sequence.tolist() if token != PADDING]
        beams.append(Beam(tokens, float(score) * len(tokens)))
    return Search(beams, _margin_without_eos(generated.scores, width))


def _margin_without_eos(step_logprobs: Sequence[torch.Tensor], width: int) -> float:
    scores = torch.full((width, 1), -1e9)
    scores[0] = 0.0
    margins = []
    for logprobs in step_logprobs:
        best = (scores + logprobs).flatten().topk(width + 1).values
        margins.append(float(best[-2] - best[-1]))
        scores = best[:-1, None]
    return min(*margins, *(float(gap) for gap in scores[:-1, 0] - scores[1:, 0]))


@torch.inference_mode()
def search_by_definition(
    model: Any, token_ids: Sequence[int], width: int, num_tokens: int, eos_token_ids: Sequence[int]
) -> Search:
    """The search that `BeamSearchParams` describes, length_penalty 1, with a whole forward pass for each step."""
    live, ended = [Beam([], 0.0)], list[Beam]()
    margins: list[float] = []
    for _ in range(num_tokens):
        rows = torch.tensor([[*token_ids, *beam.token_ids] for beam in live])
        logprobs = torch.log_softmax(model(rows, use_cache=False, logits_to_keep=1).logits[:, -1].float(), dim=-1)
        children: list[Beam] = []
        for beam, row in zip(live, logprobs, strict=True):
            best = row.topk(2 * width + 1)
            margins.append(float(best.values[-2] - best.values[-1]) if _matters(best, eos_token_ids) else 1.0)
            for token_id, logprob in zip(best.indices[:-1].tolist(), best.values[:-1].tolist(), strict=True):
                is_end = token_id in eos_token_ids
                (ended if is_end else children).append(Beam([*beam.token_ids, token_id], beam.cum_logprob + logprob))
        children.sort(key=lambda beam: -beam.cum_logprob)
        margins.append(children[width - 1].cum_logprob - children[width].cum_logprob)
        live = children[:width]
    results = sorted([*ended, *live], key=_final_score, reverse=True)[: width + 1]
    margins += [_final_score(one) - _final_score(two) for one, two in pairwise(results)]
    return Search(results[:width], min(margins))


def _matters(best: Any, eos_token_ids: Sequence[int]) -> bool:
    """Whether EOS is the last proposal or the first that is none."""
    return any(token_id in eos_token_ids for token_id in best.indices[-2:].tolist())


def _final_score(beam: Beam) -> float:
    return beam.cum_logprob / len(beam.token_ids)


def _rounded(beams: Sequence[Beam]) -> list[tuple[list[int], float]]:
    return [(beam.token_ids, round(beam.cum_logprob, 5)) for beam in beams]


if __name__ == "__main__":
    main()
