"""Writes the reference of glassllm's English model: `python -m tests.references.make_glassllm FOLDER`. Needs torch.

FOLDER holds the unpacked package (`pip install --target FOLDER --no-deps glassllm==0.1.0`).
"""

# torch lives in a second environment.
# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.references.gguf_models import to_rotary_halves
from tests.references.greedy import decode_greedily, write_outputs
from tests.references.reference import DATA_DIRECTORY

NUM_TOKENS = 64
MINIMUM_MARGIN = 2e-4
KNOWN_PROMPT = [494, 160, 729, 633, 111]
KNOWN_OUTPUT = [97, 4, 373, 111, 97, 388, 11, 120, 168, 734]
TEXTS = (
    "Alice",
    "The Queen",
    "“Who are you?” said the",
    "Alice was beginning to get very tired",
    "The Cat only grinned when it saw Alice. It looked good-natured, she thought",
    "She opened the little door, and looked into a garden with a great many roses",
    "“I never said so!” cried the Hatter, and he took up his cup, his bread and his watch, and went away",
    "In the wood a small white horse was standing, and by its side there was a knight who",
    "The Red Queen shook her head. “You may call it nonsense",
    "One two three four five six seven",
    "The King and the Queen of Hearts were seated on their throne when they arrived, with a great crowd about them, "
    "all sorts of little birds and beasts, as well as the whole pack of cards",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    sys.path.insert(0, str(folder))
    own_model, tokenizer = importlib.import_module("glassllm").load_pretrained("en")
    model = build_glassllm(folder / "glassllm" / "weights" / "en.npz")
    cases, left_out = [], []
    for text in (tokenizer.decode(KNOWN_PROMPT), *TEXTS):
        token_ids = tokenizer.encode(text)
        case = decode_greedily(model, token_ids, NUM_TOKENS, with_prompt_logprobs=True, text=text)
        own = [step.token for step in own_model.generate(token_ids, NUM_TOKENS, greedy=True)]
        assert own == case.output_token_ids, f"{text!r}: the package's own code decodes {own}"
        print(len(token_ids), case.minimum_margin, repr(text), "->", repr(tokenizer.decode(own)[:100]))
        if case.minimum_margin < MINIMUM_MARGIN:
            left_out.append(f"{text!r}: margin {case.minimum_margin}")
        else:
            cases.append(case)
    assert cases[0].output_token_ids[: len(KNOWN_OUTPUT)] == KNOWN_OUTPUT
    write_outputs(DATA_DIRECTORY / "glassllm-en", cases, file="glassllm/weights/en.npz", left_out=left_out)


def build_glassllm(path: Path) -> transformers.LlamaForCausalLM:
    """The package's float16 arrays, [in, out] and with interleaved rotary pairs, as a Llama of transformers."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    own = json.loads(str(arrays.pop("__config__")))
    config = transformers.LlamaConfig(
        vocab_size=own["vocab_size"],
        hidden_size=own["d_model"],
        intermediate_size=arrays["blocks.0.ffn.W1"].shape[1],
        num_hidden_layers=own["n_layers"],
        num_attention_heads=own["n_heads"],
        num_key_value_heads=own["n_kv_heads"],
        max_position_embeddings=own["max_len"],
        rms_norm_eps=own["eps"],
        rope_parameters={"rope_type": "default", "rope_theta": own["rope_base"]},
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    state = {"model.embed_tokens.weight": arrays["E"], "model.norm.weight": arrays["norm_f.gamma"]}
    for layer in range(own["n_layers"]):
        state |= _layer_state(arrays, layer, own["n_heads"], own["n_kv_heads"])
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values, np.float32)) for name, values in state.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"], f"missing {missing}"
    assert not unexpected, f"unexpected {unexpected}"
    model.tie_weights()
    return model.eval()


def _layer_state(arrays: dict[str, np.ndarray], layer: int, num_heads: int, num_kv_heads: int) -> dict[str, np.ndarray]:
    source, target = f"blocks.{layer}", f"model.layers.{layer}"
    return {
        f"{target}.input_layernorm.weight": arrays[f"{source}.norm1.gamma"],
        f"{target}.post_attention_layernorm.weight": arrays[f"{source}.norm2.gamma"],
        f"{target}.self_attn.q_proj.weight": to_rotary_halves(arrays[f"{source}.attn.W_Q"].T, num_heads),
        f"{target}.self_attn.k_proj.weight": to_rotary_halves(arrays[f"{source}.attn.W_K"].T, num_kv_heads),
        f"{target}.self_attn.v_proj.weight": arrays[f"{source}.attn.W_V"].T,
        f"{target}.self_attn.o_proj.weight": arrays[f"{source}.attn.W_O"].T,
        f"{target}.mlp.gate_proj.weight": arrays[f"{source}.ffn.W1"].T,
        f"{target}.mlp.up_proj.weight": arrays[f"{source}.ffn.W3"].T,
        f"{target}.mlp.down_proj.weight": arrays[f"{source}.ffn.W2"].T,
    }


if __name__ == "__main__":
    main()
