"""Completions from a running `jaxllm serve`, with the `openai` package."""

import argparse
import os

from openai import OpenAI

PROMPT = "A robot may not injure a human being"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", default="http://localhost:8000/v1")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--stream", action="store_true", help="print the text while it is generated")
    arguments = parser.parse_args()

    # Without --api-key the server takes any key; the package wants one.
    client = OpenAI(api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"), base_url=arguments.base_url)
    model = client.models.list().data[0].id
    print(f"Model: {model}\nPrompt: {PROMPT}")

    if arguments.stream:
        chunks = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=arguments.max_tokens, temperature=0, stream=True
        )
        for chunk in chunks:
            print(chunk.choices[0].text, end="", flush=True)
        print()
    else:
        completion = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=arguments.max_tokens, n=2, temperature=0.8, seed=0, logprobs=1
        )
        for choice in completion.choices:
            print(f"Completion {choice.index} ({choice.finish_reason}): {choice.text!r}")
        print(f"Usage: {completion.usage}")


if __name__ == "__main__":
    main()
