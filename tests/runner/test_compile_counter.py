import jax
import numpy as np

from jaxllm.runner.compile_counter import num_compiles


def test_counts_what_is_compiled_and_not_what_is_run_again() -> None:
    numbers = np.arange(3)
    before = num_compiles()
    double = jax.jit(lambda x: x * 2 + 12345)
    double(numbers)
    assert num_compiles() == before + 1
    double(numbers + 1)
    assert num_compiles() == before + 1
