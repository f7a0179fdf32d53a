"""`heads.split_heads` and `cache_types.to_cache` for the Triton kernels."""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
import triton
import triton.language as tl


@triton.jit
def as_cached(entries, pool, CACHE_LIMIT: tl.constexpr):
    """Entries as the pool holds them; CACHE_LIMIT is the largest it can hold, 0 where it holds what comes."""
    if CACHE_LIMIT > 0:
        entries = tl.clamp(entries.to(tl.float32), -CACHE_LIMIT, CACHE_LIMIT, tl.PropagateNan.ALL)
    return entries.to(pool.dtype.element_ty)


@triton.jit
def norm_factors(weight, entries, dims, HEAD_DIM: tl.constexpr, OFFSET: tl.constexpr):
    return tl.load(weight + entries, mask=dims < HEAD_DIM, other=0.0).to(tl.float32) + OFFSET


@triton.jit
def turn(
    rows,
    inside,
    dims,
    weight,
    cos,
    sin,
    HEAD_DIM: tl.constexpr,
    EPS: tl.constexpr,
    OFFSET: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_ROPE: tl.constexpr,
):
    """Heads at the pointers `rows`, [heads, 1], normed and rotated as `heads.split_heads` does."""
    vectors = tl.load(rows + dims[None, :], mask=inside, other=0.0)
    if HAS_NORM:
        wide = vectors.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, 1) / HEAD_DIM + EPS)[:, None]
        weights = norm_factors(weight, dims, dims, HEAD_DIM, OFFSET)
        vectors = (wide * scale * weights[None, :]).to(vectors.dtype)
    if HAS_ROPE:
        HALF: tl.constexpr = HEAD_DIM // 2
        is_first = dims < HALF
        others = tl.where(is_first, dims + HALF, dims - HALF)
        pairs = tl.load(rows + others[None, :], mask=inside, other=0.0)
        if HAS_NORM:
            weights = norm_factors(weight, others, dims, HEAD_DIM, OFFSET)
            pairs = (pairs.to(tl.float32) * scale * weights[None, :]).to(vectors.dtype)
        angles = tl.where(is_first, dims, dims - HALF)
        cosines = tl.load(cos + angles, mask=dims < HEAD_DIM, other=0.0)
        sines = tl.load(sin + angles, mask=dims < HEAD_DIM, other=0.0)
        sines = tl.where(is_first, -sines, sines)
        turned = vectors.to(tl.float32) * cosines[None, :] + pairs.to(tl.float32) * sines[None, :]
        vectors = turned.to(vectors.dtype)
    return vectors
