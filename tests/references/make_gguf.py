"""Writes the references of SmolLM2-135M-Instruct and Gemma-3-270M from their GGUF files. Needs torch and minutes.

python -m tests.references.make_gguf smollm2-135m SmolLM2-135M-Instruct.Q4_1.gguf
python -m tests.references.make_gguf gemma-3-270m gemma-3-270m-q4_k_m.gguf
"""

# torch lives in a second environment.
# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from tests.references.gguf_models import build_gemma3, build_llama, read_gguf, smollm2_tokenizer
from tests.references.greedy import GreedyCase, UnstableCaseError, decode_greedily, write_outputs
from tests.references.reference import DATA_DIRECTORY
from tests.references.texts import CLASSIC, LONG, MIDDLE, SHORT, chapters, module

NUM_TOKENS = 64
MINIMUM_MARGIN = 2e-4
MAX_PROMPT_LOGPROBS_LEN = 130
CHAT_QUESTIONS = (
    "Who won the world series in 2020?",
    "Write a haiku about the sea.",
)
KNOWN_OUTPUTS = {
    "The capital of France is": " Paris.\n\nThe answer is: 2018-01-22 12:12:53.<|im_end|>\n<|im_start|>",
    CHAT_QUESTIONS[0]: "The World Series of 2020 was a sporting event held in 2020 between the United States and the",
}


@dataclass(frozen=True, kw_only=True)
class Prompt:
    text: str
    token_ids: list[int]
    known_output: str = ""
    """What the continuation is known to start with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["smollm2-135m", "gemma-3-270m"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    model, decode, prompts = (_smollm2 if arguments.name == "smollm2-135m" else _gemma3)(arguments.path)
    cases, left_out = _decode_all(model, decode, prompts)
    write_outputs(DATA_DIRECTORY / arguments.name, cases, file=arguments.path.name, left_out=left_out)


def _smollm2(path: Path) -> tuple[transformers.PreTrainedModel, Callable[..., str], list[Prompt]]:
    file = read_gguf(path)
    tokenizer = smollm2_tokenizer(file)
    prompts = [
        Prompt(text=text, token_ids=tokenizer.encode(text), known_output=KNOWN_OUTPUTS.get(text, ""))
        for text in (*CLASSIC, *SHORT, *MIDDLE, *LONG)
    ]
    for question in CHAT_QUESTIONS:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        known_output = KNOWN_OUTPUTS.get(question, "")
        prompts.append(Prompt(text=text, token_ids=tokenizer.encode(text), known_output=known_output))
    return build_llama(file), tokenizer.decode, prompts


def _gemma3(path: Path) -> tuple[transformers.PreTrainedModel, Callable[..., str], list[Prompt]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    texts = (*CLASSIC, *SHORT, *MIDDLE, *LONG, chapters(14), module(20))
    prompts = []
    for text in texts:
        token_ids = tokenizer.encode(text, add_special_tokens=False)
        prompts.append(Prompt(text=text, token_ids=[tokenizer.bos_token_id, *token_ids]))
    return build_gemma3(read_gguf(path)), tokenizer.decode, prompts


def _decode_all(
    model: transformers.PreTrainedModel, decode: Callable[..., str], prompts: list[Prompt]
) -> tuple[list[GreedyCase], list[str]]:
    """The firm cases, and one line about each prompt that float32 rounding could tip."""
    cases, left_out = [], []
    for prompt in prompts:
        try:
            case = decode_greedily(
                model,
                prompt.token_ids,
                NUM_TOKENS,
                with_prompt_logprobs=1 < len(prompt.token_ids) <= MAX_PROMPT_LOGPROBS_LEN,
                text=prompt.text,
            )
        except UnstableCaseError as error:
            left_out.append(f"{prompt.text[:40]!r}: {error}")
            continue
        output = decode(case.output_token_ids)
        print(len(prompt.token_ids), case.minimum_margin, repr(prompt.text[-40:]), "->", repr(output[:120]), flush=True)
        assert output.startswith(prompt.known_output), f"known output is {prompt.known_output!r}"
        if case.minimum_margin < MINIMUM_MARGIN:
            left_out.append(f"{prompt.text[:40]!r} ({len(prompt.token_ids)} tokens): margin {case.minimum_margin}")
        else:
            cases.append(case)
    return cases, left_out


if __name__ == "__main__":
    main()
