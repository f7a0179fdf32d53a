"""How XLA compiles a step: options that belong to its program, not to the process."""

from __future__ import annotations

from pathlib import Path

from jaxllm.runner.layout import Bucket

CompilerOptions = dict[str, bool | int | float | str]

_CUBLAS_TOKENS = 32
"""Tokens from which on cuBLASLt multiplies faster than what XLA generates, and compiles in a fraction of the time."""

# A whole program becomes one CUDA graph: the default list and WHILE. Without loops, those of the sampler would stay
# outside with the conditions around them, and the host would wait for these.
_COMMANDS = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,WHILE"


def compiler_options(platform: str, bucket: Bucket, autotune_directory: Path | None = None) -> CompilerOptions | None:
    """The options for the bucket's program; None leaves everything to XLA.

    On a GPU, XLA keeps in `autotune_directory`, which must exist, which implementation it measured to be the fastest
    for each product, and looks there first.
    """
    if platform == "cpu":
        return {"xla_cpu_prefer_vector_width": 512}  # twice as fast where a loop is bound by its instructions
    if platform != "gpu":
        return None
    options: CompilerOptions = {
        "xla_gpu_enable_command_buffer": _COMMANDS,
        "xla_gpu_enable_triton_gemm": bucket.num_tokens < _CUBLAS_TOKENS,
        # It lets a product write its place in the kept logits, and computes it once more for the likeliest tokens.
        "xla_gpu_enable_dynamic_slice_fusion": False,
    }
    if autotune_directory is not None:
        options["xla_gpu_per_fusion_autotune_cache_dir"] = str(autotune_directory)
    return options
