"""The quick start: a small real model completes four prompts, then answers one question in chat form."""

import time

from jaxllm import JaxLLM, SamplingParams

QUESTION = "Give me one tip for learning a new language."


def main() -> None:
    prompts = [
        "Hello, my name is",
        "The president of the United States is",
        "The capital of France is",
        "The future of AI is",
    ]
    llm = JaxLLM(model="smollm2-135m")

    sampling_params = SamplingParams(temperature=0.8, top_p=0.95)
    start = time.perf_counter()
    outputs = llm.generate(prompts, sampling_params)
    seconds = time.perf_counter() - start

    for output in outputs:
        print(f"Prompt: {output.prompt!r}, Generated text: {output.outputs[0].text!r}")
    num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    print(f"{num_tokens} tokens in {seconds:.2f} s: {num_tokens / seconds:.1f} tokens/s\n")

    # `generate` completes raw text; `chat` applies the model's chat template.
    conversation = [{"role": "user", "content": QUESTION}]
    [answer] = llm.chat(conversation, SamplingParams(temperature=0.0, max_tokens=64))
    print(f"Question: {QUESTION}\nAnswer: {answer.outputs[0].text}")

    llm.shutdown()


if __name__ == "__main__":
    main()
