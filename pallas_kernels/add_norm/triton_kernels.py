"""Triton kernel of the add and the norms. Grid (tokens,); sums in float32."""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
import triton
import triton.language as tl


@triton.jit
def add_norm_kernel(
    x,  # [tokens, size]
    delta,  # [tokens, size]
    weight,  # [size]
    delta_weight,  # [size], read where NORMS_DELTA
    total,  # [tokens, size]
    normed,  # [tokens, size]
    NORMS_DELTA: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    EPS: tl.constexpr,
    OFFSET: tl.constexpr,
):
    entries = tl.arange(0, BLOCK)
    inside = entries < SIZE
    row = tl.program_id(0).to(tl.int64) * SIZE
    first = tl.load(x + row + entries, mask=inside, other=0.0)
    second = tl.load(delta + row + entries, mask=inside, other=0.0)
    if NORMS_DELTA:
        second = _norm(second, delta_weight, entries, inside, SIZE, EPS, OFFSET)
    rounded = (first.to(tl.float32) + second.to(tl.float32)).to(first.dtype)
    tl.store(total + row + entries, rounded, mask=inside)
    tl.store(normed + row + entries, _norm(rounded, weight, entries, inside, SIZE, EPS, OFFSET), mask=inside)


@triton.jit
def _norm(vector, weight, entries, inside, SIZE: tl.constexpr, EPS: tl.constexpr, OFFSET: tl.constexpr):
    factors = tl.load(weight + entries, mask=inside, other=0.0).to(tl.float32) + OFFSET
    wide = vector.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + EPS)
    return (wide * scale * factors).to(vector.dtype)
