from jaxllm.runner.compiler_options import compiler_options
from jaxllm.runner.layout import Bucket


def bucket(num_tokens: int) -> Bucket:
    return Bucket(num_tokens=num_tokens, num_rows=num_tokens, has_chunks=False)


def test_the_cpu_gets_wide_vectors() -> None:
    assert compiler_options("cpu", bucket(1)) == {"xla_cpu_prefer_vector_width": 512}


def test_other_platforms_keep_the_defaults_of_xla() -> None:
    assert compiler_options("tpu", bucket(1)) is None


def test_gpu_steps_become_one_graph_with_loops() -> None:
    options = compiler_options("gpu", bucket(1))
    assert options is not None
    assert "WHILE" in str(options["xla_gpu_enable_command_buffer"]).split(",")


def test_products_of_many_tokens_go_to_cublas() -> None:
    generated = [(compiler_options("gpu", bucket(n)) or {})["xla_gpu_enable_triton_gemm"] for n in (1, 16, 32, 8192)]
    assert generated == [True, True, False, False]


def test_no_product_is_computed_twice_to_be_kept_and_used() -> None:
    assert (compiler_options("gpu", bucket(64)) or {})["xla_gpu_enable_dynamic_slice_fusion"] is False
