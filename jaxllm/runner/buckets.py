"""Which shapes get a program. Few on the CPU, where compiling is slow and padding cheap; a fine ladder elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from jaxllm.runner.layout import Bucket
from jaxllm.runner.prompt_scorer import SCORED_ROWS

_CPU_DECODE_ROWS = (1, 8, 32)
"""Two to eight rows take the same time there: XLA packs the weights anew at each product, and that is most of it."""
_CPU_MIXED_TOKENS = (64, 512)
_DECODE_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512)
_CPU_FEW_ROWS, _FEW_ROWS = 8, 64
_MIXED_TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192)
_SAMPLED_ROWS = (1, 8, 64, 256)


def bucket_ladder(platform: str, max_num_seqs: int, max_num_batched_tokens: int) -> list[Bucket]:
    """The programs to compile, smallest first: decode-only ones by rows, mixed ones by tokens."""
    is_cpu = platform == "cpu"
    rows = _ladder(_CPU_DECODE_ROWS if is_cpu else _DECODE_ROWS, max_num_seqs, step=8)
    tokens = _ladder(_CPU_MIXED_TOKENS if is_cpu else _MIXED_TOKENS, max_num_batched_tokens, step=SCORED_ROWS)
    most = rows[-1]
    # Every row of a step has a token, so a mixed program needs no more rows than tokens.
    decode = [Bucket(num_tokens=n, num_rows=n, has_chunks=False) for n in rows]
    return decode + [Bucket(num_tokens=n, num_rows=min(n, most), has_chunks=True) for n in tokens]


def row_sizes(platform: str, most: int) -> list[int]:
    """For small programs over the rows of a step: one for few of them and one for all."""
    few = _CPU_FEW_ROWS if platform == "cpu" else _FEW_ROWS
    return sorted({min(few, most), most})


def sampled_sizes(platform: str, most: int) -> list[int]:
    """Rows of the programs that draw tokens, smallest first."""
    return _ladder(_CPU_DECODE_ROWS if platform == "cpu" else _SAMPLED_ROWS, most, step=8)


def _ladder(sizes: Sequence[int], most: int, *, step: int) -> list[int]:
    """The sizes below `most`, and one at the top that holds `most`, rounded up to a multiple of `step` if larger."""
    below = [size for size in sizes if size < most]
    if most <= sizes[0]:
        return [sizes[0]]
    top = most if most < step else -(-most // step) * step
    return [*below, top]


def smallest(buckets: Sequence[Bucket], *, num_tokens: int, num_rows: int, has_chunks: bool) -> Bucket:
    """The first bucket that holds the step; decode-only steps take decode buckets."""
    for bucket in buckets:
        if bucket.has_chunks == has_chunks and bucket.num_tokens >= num_tokens and bucket.num_rows >= num_rows:
            return bucket
    raise AssertionError(f"no program holds {num_tokens} tokens of {num_rows} requests")
