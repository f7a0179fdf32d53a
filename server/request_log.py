"""Log lines about single requests: what came, what was generated, and that its client went."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.outputs import RequestOutput
from jaxllm.sampling_params import SamplingParams
from jaxllm.server.config import ServerConfig
from jaxllm.server.prompts import ServedPrompt

_logger = logging.getLogger(__name__)


class RequestLog:
    """Logs one HTTP request as far as the server's settings want it; an abort is always told."""

    def __init__(self, config: ServerConfig, response_id: str) -> None:
        self._logs_requests = config.enable_log_requests
        self._logs_outputs = config.enable_log_outputs
        self._max_length = config.max_log_len
        self._response_id = response_id
        self._texts: defaultdict[tuple[int, int], str] = defaultdict(str)

    def start(self, prompts: Sequence[ServedPrompt], params: SamplingParams | BeamSearchParams) -> None:
        """The request begins to run."""
        if self._logs_requests:
            for index, prompt in enumerate(prompts):
                text = None if prompt.text is None else prompt.text[: self._max_length]
                token_ids = prompt.token_ids[: self._max_length]
                _logger.info(
                    "Request %s prompt %d: %r, token ids %s, %s", self._response_id, index, text, token_ids, params
                )

    def add(self, index: int, output: RequestOutput) -> None:
        """Something was generated for a prompt."""
        if self._logs_outputs:
            for completion in output.outputs:
                key = (index, completion.index)
                self._texts[key] += completion.text
                if completion.is_finished:
                    text = self._texts.pop(key)[: self._max_length]
                    _logger.info(
                        "Request %s prompt %d answer %d: %r, finish_reason %s",
                        *(self._response_id, *key, text, completion.finish_reason),
                    )

    def abort(self) -> None:
        """The client went before the end."""
        _logger.info("Request %s was aborted: its client is gone", self._response_id)
