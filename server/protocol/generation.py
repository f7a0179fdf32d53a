"""The fields that completion and chat requests share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jaxllm.server.protocol.refusals import Refused


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = Field(None, description="End with a chunk that tells the usage.")
    continuous_usage_stats: bool | None = Field(None, description="Tell the usage in every chunk.")


class ResponseFormat(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(extra="allow")

    type: str


class GenerationRequest(BaseModel):
    """What both kinds of request may ask for; null is always the default."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = Field(None, description="A name from /v1/models; null is the first.")
    n: int | None = Field(None, description="Answers to the same prompt; the beam width of a beam search.")
    stream: bool | None = Field(None, description="Send the text while it is generated, as server-sent events.")
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, description="Longest answer, in tokens.")
    min_tokens: int | None = Field(None, description="The answer doesn't end before this many tokens.")
    temperature: float | None = Field(None, description="0 to 2; 0 takes the likeliest token.")
    top_p: float | None = Field(None, description="Keep the likeliest tokens whose probabilities reach this sum.")
    top_k: int | None = Field(None, description="Keep the k likeliest tokens; 0 or -1 keeps all.")
    min_p: float | None = Field(None, description="Keep tokens at least this likely, relative to the likeliest.")
    seed: int | None = Field(None, description="Makes the draws repeatable.")
    presence_penalty: float | None = Field(None, description="-2 to 2, once for every token generated before.")
    frequency_penalty: float | None = Field(None, description="-2 to 2, for each time a token was generated before.")
    repetition_penalty: float | None = Field(None, description="Above 1 discourages tokens of prompt and answer.")
    logit_bias: dict[str, float] | None = Field(None, description="Added to the logits, by token id.")
    allowed_token_ids: list[int] | None = Field(None, description="Draw from these tokens only.")
    bad_words: list[str] | None = Field(None, description="Words that are never completed.")
    stop: str | list[str] | None = Field(None, description="Strings that end the answer and are cut off.")
    stop_token_ids: list[int] | None = Field(None, description="Tokens that end the answer.")
    include_stop_str_in_output: bool | None = Field(None, description="Keep the stop string or token in the text.")
    ignore_eos: bool | None = Field(None, description="Go on after the end-of-text token.")
    skip_special_tokens: bool | None = Field(None, description="Leave special tokens out of the text.")
    spaces_between_special_tokens: bool | None = Field(None, description="Put spaces between special tokens.")
    prompt_logprobs: int | None = Field(None, description="Log-probabilities of the prompt's tokens; -1 is all.")
    stream_interval: int | None = Field(None, description="Tokens per streamed chunk.")
    truncate_prompt_tokens: int | None = Field(None, description="Keep this many prompt tokens; -1 is what fits.")
    truncation_side: Literal["left", "right"] | None = Field(None, description="The end of the prompt to cut off.")
    add_special_tokens: bool | None = Field(None, description="Let the tokenizer add BOS and the like.")
    use_beam_search: bool | None = Field(None, description="Search with n beams instead of drawing.")
    length_penalty: float | None = Field(None, description="Exponent of the length in a beam's score; 1 is the mean.")
    echo: bool | None = Field(
        None, description="Put the prompt (in chats the last message, if it is the assistant's) before the answer."
    )
    priority: int | None = Field(None, description="Lower runs first, under the scheduling policy 'priority'.")
    request_id: str | None = Field(None, description="Becomes part of the answer's id.")
    cache_salt: str | None = Field(None, description="Only requests with the same salt share cached prompts.")
    return_token_ids: bool | None = Field(None, description="Tell the token ids of prompt and answer.")
    return_tokens_as_token_ids: bool | None = Field(None, description="Write tokens in log-probabilities by their id.")
    user: str | None = Field(None, description="Changes nothing.")

    response_format: Annotated[
        ResponseFormat | None,
        Refused("formats other than text", harmless=(None, ResponseFormat(type="text"))),
    ] = None
    structured_outputs: Annotated[Any, Refused("structured outputs")] = None
    guided_json: Annotated[Any, Refused("structured outputs")] = None
    guided_regex: Annotated[Any, Refused("structured outputs")] = None
    guided_choice: Annotated[Any, Refused("structured outputs")] = None
    guided_grammar: Annotated[Any, Refused("structured outputs")] = None
    guided_json_object: Annotated[Any, Refused("structured outputs", harmless=(None, False))] = None
    guided_decoding_backend: Annotated[Any, Refused("structured outputs")] = None
    guided_whitespace_pattern: Annotated[Any, Refused("structured outputs")] = None
    logprob_token_ids: Annotated[Any, Refused("log-probabilities of chosen tokens", harmless=(None, []))] = None
    thinking_token_budget: Annotated[Any, Refused("limits on reasoning", harmless=(None, -1))] = None
    repetition_detection: Annotated[Any, Refused("stopping at repetitions")] = None
    logits_processors: Annotated[Any, Refused("logits processors", harmless=(None, []))] = None
    watermarking: Annotated[Any, Refused("watermarks")] = None
    session_id: Annotated[Any, Refused("sessions")] = None
    kv_transfer_params: Annotated[Any, Refused("transfer of cached prompts")] = None
    ec_transfer_params: Annotated[Any, Refused("transfer of encoder outputs")] = None
    vllm_xargs: Annotated[Any, Refused("custom arguments", harmless=(None, {}))] = None
    return_weight_versions: Annotated[Any, Refused("versions of weights", harmless=(None, False))] = None
    routed_experts_prompt_start: Annotated[Any, Refused("expert routes", harmless=(None, 0))] = None
    early_stopping: Annotated[Any, Refused("early stopping of a beam search", harmless=(None, False))] = None
    best_of: Annotated[Any, Refused("choosing among more completions than are returned", harmless=(None, 1))] = None
