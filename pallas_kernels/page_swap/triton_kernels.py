"""Triton kernel that copies pages between one pool of the cache and pinned host memory. Grid (moves, blocks)."""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
import triton
import triton.language as tl


@triton.jit
def move_kernel(
    pool,  # [pages, page_size, kv_heads, head_dim]
    moves,  # int32 [moves, 3]: page, low and high half of the host address where the pools' copies of it begin
    place,  # int32 [1]: which of those copies is this pool's
    NO_PAGE: tl.constexpr,
    WORDS: tl.constexpr,  # 32-bit words of a page
    BLOCK: tl.constexpr,
    TO_HOST: tl.constexpr,
):
    move = moves + tl.program_id(0) * 3
    page = tl.load(move).to(tl.int64)
    low = tl.load(move + 1).to(tl.uint32, bitcast=True).to(tl.uint64)
    high = tl.load(move + 2).to(tl.uint32, bitcast=True).to(tl.uint64)
    address = low | (high << 32)
    # Words whatever the cache's dtype: nothing is computed.
    host = address.to(tl.pointer_type(tl.int32)) + tl.load(place).to(tl.int64) * WORDS
    here = pool.to(tl.pointer_type(tl.int32), bitcast=True) + page * WORDS
    words = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (words < WORDS) & (page != NO_PAGE)
    if TO_HOST:
        tl.store(host + words, tl.load(here + words, mask=inside), mask=inside)
    else:
        tl.store(here + words, tl.load(host + words, mask=inside), mask=inside)
