"""Every error that jaxllm raises on purpose. A caller's mistake is also a `ValueError`."""


class JaxLLMError(Exception):
    """Base of all errors raised by jaxllm."""


class ValidationError(JaxLLMError, ValueError):
    """A parameter or an input is wrong; the message says what was expected and what came.

    `parameter` names it, for HTTP error bodies.
    """

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class ModelNotFoundError(JaxLLMError, ValueError):
    """No model lies at the given path or id, or the hub can't be reached."""


class UnsupportedModelError(JaxLLMError, ValueError):
    """The model's architecture, or a feature its configuration asks for, is not implemented."""


class CheckpointError(JaxLLMError, ValueError):
    """A weight file is missing, truncated, corrupt, unsafe, or its tensors don't fit the model."""


class EngineDeadError(JaxLLMError):
    """The engine failed or was shut down; no request can be served any more."""


class EngineStalledError(JaxLLMError):
    """Requests run and the engine has not finished a step for longer than it may take."""


class DeviceError(JaxLLMError):
    """The device lacks something that jaxllm needs (memory, kernels, a supported chip)."""
