"""Prompt texts of the real models' references: English, code, other languages, from one token to some 700."""

from __future__ import annotations

CLASSIC = (
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
)

SHORT = (
    "Once",
    "import",
    "Why is the sky blue?",
    "Water boils at",
    "def fibonacci(n):\n",
    "1, 2, 3, 4, 5,",
    "Le chat est assis sur",
    "El perro corre por la",
    "Der schnelle braune Fuchs",
    "東京は日本の",
    "Привет, как",
)

MIDDLE = (
    "Question: A farmer has 17 sheep and buys 5 more. How many sheep does the farmer have now?\nAnswer:",
    "import numpy as np\n\n\ndef softmax(x):\n    x = x - np.max(x, axis=-1, keepdims=True)\n    return",
    "SELECT name, price FROM products WHERE price > 100 ORDER BY",
    "# Shopping list\n\n- apples\n- bread\n- milk\n\n# Things to do today\n\n-",
    '{"name": "Ada", "born": 1815, "languages": ["English", "French"], "address": {"city":',
    "The three states of matter are solid, liquid and gas. When ice is heated it melts, and when water is heated it",
    "Translate to French.\nEnglish: Good morning.\nFrench: Bonjour.\nEnglish: Thank you very much.\nFrench:",
    "Dear Ms. Miller,\n\nThank you for your letter of 3 March. We have looked into the matter of the broken kettle and",
    "A bat and a ball cost $1.10 together. The bat costs $1.00 more than the ball. If we call the price of the ball x, "
    "then the price of the bat is x + 1.00, and the two together cost",
    "for (int i = 0; i < n; ++i) {\n    for (int j = i + 1; j < n; ++j) {\n        if (a[i] > a[j]) {\n",
    "In the year 1969 two people walked on the Moon while a third stayed in orbit above them. Their journey had taken "
    "four days, and the whole world was watching. When they came home,",
)

_PARAGRAPHS = (
    "The old lighthouse stood at the end of a long stone pier. Every evening the keeper climbed its two hundred steps "
    "with a can of oil in one hand and a lantern in the other, and every morning he came down again to sleep.",
    "One winter a ship lost its way in the fog. The captain rang the bell, the sailors shouted, and the keeper, who "
    "heard them, lit every lamp he owned and hung them from the windows of the tower.",
    "In the village people told the story for many years. Some said that there had been three ships, others that the "
    "keeper had been asleep and that his daughter had lit the lamps, and a few that there had been no fog at all.",
    "When the first electric light was put into the tower, the keeper was given a small pension and a brass watch. He "
    "moved to a house with a garden and grew beans, potatoes and a kind of yellow rose that nobody could name.",
    "His daughter became an engineer. She built bridges in four countries, wrote a book about steel, and on her last "
    "journey home she brought a model of the lighthouse, which can still be seen in the town hall.",
    "Visitors who climb the tower today pay a small fee at the door. From the gallery one sees the harbour, the "
    "islands, and on clear days the mountains on the other side of the bay, white with snow even in June.",
)

_FUNCTIONS = (
    "def mean(values):\n    return sum(values) / len(values)\n",
    "def variance(values):\n    center = mean(values)\n    return mean([(v - center) ** 2 for v in values])\n",
    "def median(values):\n    ordered = sorted(values)\n    middle = len(ordered) // 2\n    return ordered[middle]\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"
    "        self.items.append(item)\n\n    def pop(self):\n        return self.items.pop()\n",
)


def chapters(num_paragraphs: int) -> str:
    """A story of that many numbered paragraphs, about 50 tokens each; the paragraphs come again from the seventh on."""
    parts = [f"Chapter {index + 1}.\n{_PARAGRAPHS[index % len(_PARAGRAPHS)]}\n\n" for index in range(num_paragraphs)]
    return "".join(parts) + f"Chapter {num_paragraphs + 1}.\n"


def module(num_functions: int) -> str:
    """Python source of that many definitions, about 35 tokens each."""
    parts = [f"# Part {index + 1}\n{_FUNCTIONS[index % len(_FUNCTIONS)]}\n\n" for index in range(num_functions)]
    return "".join(parts) + f"# Part {num_functions + 1}\n"


def medley(texts: tuple[str, ...]) -> str:
    """All of it once, with nothing to copy from: the continuation depends on far tokens in a finer way."""
    return "\n\n".join((*texts, *_PARAGRAPHS, *_FUNCTIONS, ""))


LONG = (
    chapters(1),
    chapters(3),
    module(6),
    chapters(5),
    module(14),
    chapters(8),
    chapters(10),
    chapters(12),
    medley(MIDDLE) + "In the evening",
    medley(MIDDLE[::-1]) + "The most important thing about lighthouses is that",
    medley(MIDDLE[::2] + SHORT) + "Now we come to the list of all the people who",
)
