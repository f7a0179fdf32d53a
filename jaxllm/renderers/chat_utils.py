"""Where vLLM has `load_chat_template`."""

from jaxllm.text.chat_template import load_chat_template as load_chat_template
