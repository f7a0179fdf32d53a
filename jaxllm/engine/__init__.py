from jaxllm.engine.engine import Engine as Engine
from jaxllm.engine.metrics import EngineMetrics as EngineMetrics
from jaxllm.engine.output import EngineOutput as EngineOutput
from jaxllm.engine.request import EngineRequest as EngineRequest
from jaxllm.engine.request import FinishReason as FinishReason
