"""Writes smollm2_expected_ids.json: token ids of tricky texts, from a slow and simple second implementation.

    python -m tests.text.make_smollm2_expected_ids path/to/SmolLM2-135M-Instruct.gguf

The rule is llama.cpp's for the pre-tokenizer "smollm": cut off every digit, cut the rest by GPT-2's pattern, then
merge bytes by rank.
"""

import json
import sys
from pathlib import Path

from tests.text.helpers import ReferenceBpe

DIGITS = r"\p{N}"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

TEXTS = [
    "The capital of France is",
    "Hello, my name is",
    "The president of the United States is",
    "The future of AI is",
    "",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\n\n1",
    "\n\n\n2",
    " \n 3",
    "\t\t4",
    "\r\n5\r\n",
    "1",
    "12",
    "1234567890",
    " 1 2  3",
    "2018-01-22 12:12:53.",
    "3.14159",
    "a1b22c333",
    "½ cup",
    "x² + y³ = ¼",
    "Ⅳ ٣ ५ ①",
    "it's I'll we've don't they're I'm he'd",
    "IT'S I'LL",
    "'s 't",
    "Hello    world",
    "trailing spaces   ",
    "   leading spaces",
    "line one\nline two\n\n  indented",
    "def f(x):\n    return x  # comment\n",
    "if (a && b) { c->d[0] += 1; }",
    "http://example.com/?q=1&r=%20",
    "naïve café résumé",
    "Ünïcödé",
    "e\u0301 combining",
    "Привет, мир!",
    "Καλημέρα κόσμε",
    "你好\uff0c世界",
    "こんにちは世界 123",
    "안녕하세요",
    "नमस्ते दुनिया",
    "កាន់តែពិសេសអាចខលចេញ",
    "مرحبا بالعالم",
    "שלום עולם",
    "🦙 llama 🚀🚀",
    "😶\u200d🌫️ joined",
    "👩\u200d👩\u200d👧\u200d👦",
    "\u00a0no-break\u00a0space",
    "\u3000wide\u3000space",
    "\u2028line\u2029separators",
    "\u200bzero\u200bwidth",
    "\ufeffmark",
    "\x00\x01\x7f",
    "......!!!!!!??????",
    "------=======~~~~~~",
    '"quoted" (and) [bracketed] {braced} <angled>',
    "\U0010ffff",
]


def main() -> None:
    reference = ReferenceBpe(Path(sys.argv[1]), [DIGITS, GPT2])
    lines = [json.dumps([text, reference.encode(text)]) for text in TEXTS]
    target = Path(__file__).with_name("smollm2_expected_ids.json")
    target.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
