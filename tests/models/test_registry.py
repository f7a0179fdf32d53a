import pytest

from jaxllm.errors import UnsupportedModelError
from jaxllm.models.gemma3 import Gemma3
from jaxllm.models.qwen3 import Qwen3
from jaxllm.models.registry import ARCHITECTURES, build_model
from tests.models.helpers import make_config, make_mesh


@pytest.mark.parametrize(("name", "port"), [("Qwen3ForCausalLM", Qwen3), ("Gemma3ForCausalLM", Gemma3)])
def test_an_architecture_gets_its_port(name: str, port: type) -> None:
    assert type(build_model(make_config(architectures=[name]), make_mesh())) is port


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    known = ", ".join(sorted(ARCHITECTURES))
    with pytest.raises(
        UnsupportedModelError, match=f"architecture 'AbacusForCausalLM' is not supported; known: {known}"
    ):
        build_model(make_config(architectures=["AbacusForCausalLM"]), make_mesh())
