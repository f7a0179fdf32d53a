"""Greedy decoding by transformers, with the margins that tell how firm each choice is. Needs torch."""

# torch lives in a second environment.
# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# pyright: reportMissingImports=false
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

NUM_FIRST_TOP = 5


@dataclass(frozen=True, kw_only=True)
class GreedyCase:
    """What outputs.json holds for one prompt; `reference.ReferenceCase` documents the fields."""

    token_ids: list[int]
    output_token_ids: list[int]
    output_logprobs: list[float]
    margins: list[float]
    first_top: list[tuple[int, float]]
    prompt_logprobs: list[float] | None = None
    text: str | None = None

    @property
    def minimum_margin(self) -> float:
        return min(self.margins)


class UnstableCaseError(Exception):
    """Decoding with the KV cache and one forward pass without it chose different tokens."""


@torch.inference_mode()
def decode_greedily(
    model: transformers.PreTrainedModel,
    token_ids: Sequence[int],
    num_tokens: int,
    *,
    with_prompt_logprobs: bool = False,
    text: str | None = None,
) -> GreedyCase:
    """Decodes one prompt alone with `generate`, then checks the path by one forward pass over the whole of it."""
    prompt = torch.tensor([list(token_ids)])
    model.generation_config.eos_token_id = None
    generated = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=num_tokens,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    sequence = generated.sequences
    logits = torch.cat(generated.logits).float()  # [num_tokens, vocab]
    prompt_len = prompt.shape[1]
    outputs = sequence[0, prompt_len:]
    assert len(outputs) == num_tokens, f"asked for {num_tokens} tokens, got {len(outputs)}"
    num_kept = sequence.shape[1] - 1 if with_prompt_logprobs else num_tokens
    uncached = model(sequence[:, :-1], use_cache=False, logits_to_keep=num_kept).logits[0].float()
    if not torch.equal(uncached[-num_tokens:].argmax(-1), outputs):
        raise UnstableCaseError(f"prompt of {prompt_len} tokens: cached and uncached paths differ")
    logprobs = torch.log_softmax(logits, dim=-1)
    best, second = logits.topk(2).values.T
    first_top = logprobs[0].topk(NUM_FIRST_TOP)
    prompt_logprobs = None
    if with_prompt_logprobs:
        known = torch.log_softmax(uncached[: prompt_len - 1], dim=-1)
        prompt_logprobs = _rounded(known.gather(1, prompt[0, 1:, None])[:, 0])
    return GreedyCase(
        token_ids=list(token_ids),
        output_token_ids=outputs.tolist(),
        output_logprobs=_rounded(logprobs.gather(1, outputs[:, None])[:, 0]),
        margins=_rounded(best - second),
        first_top=list(zip(first_top.indices.tolist(), _rounded(first_top.values), strict=True)),
        prompt_logprobs=prompt_logprobs,
        text=text,
    )


def write_outputs(directory: Path, cases: Sequence[GreedyCase], **notes: object) -> None:
    """Writes outputs.json: the versions, `notes` about the model, and one line a list."""
    record = {
        "made_with": {"transformers": transformers.__version__, "torch": torch.__version__, "dtype": "float32"},
        **notes,
        "minimum_margin": min(case.minimum_margin for case in cases),
    }
    head = json.dumps(record, indent=1, ensure_ascii=False)[:-2]
    body = ",\n".join(_case_text(case) for case in cases)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "outputs.json").write_text(f'{head},\n "cases": [\n{body}\n ]\n}}\n', encoding="utf-8")


def _case_text(case: GreedyCase) -> str:
    fields = [(name, value) for name, value in asdict(case).items() if value is not None]
    lines = [f"   {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields]
    return "  {\n" + ",\n".join(lines) + "\n  }"


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]
