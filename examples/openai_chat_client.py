"""A conversation with a running `jaxllm serve`, with the `openai` package."""

import argparse
import os

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Why is the sky blue?"},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", default="http://localhost:8000/v1")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--stream", action="store_true", help="print the answer while it is generated")
    arguments = parser.parse_args()

    # Without --api-key the server takes any key; the package wants one.
    client = OpenAI(api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"), base_url=arguments.base_url)
    model = client.models.list().data[0].id
    print(f"Model: {model}")

    if arguments.stream:
        chunks = client.chat.completions.create(
            model=model, messages=MESSAGES, max_completion_tokens=arguments.max_tokens, stream=True
        )
        for chunk in chunks:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()
    else:
        answer = client.chat.completions.create(
            model=model, messages=MESSAGES, max_completion_tokens=arguments.max_tokens
        )
        print(f"Answer: {answer.choices[0].message.content}\nUsage: {answer.usage}")


if __name__ == "__main__":
    main()
