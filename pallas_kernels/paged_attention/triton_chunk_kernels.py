"""Triton kernels of paged attention for steps with prompt chunks.

prepare_kernel  grid (kv_heads, blocks of tokens): norm, rotary embedding and cache write of all tokens
chunk_kernel    grid (heads / PACK, pieces of a tile, tiles): consecutive tokens of one prompt over the context up to
                them; tiles from `num_tiles` on exit at once. PACK query heads of a group share what is loaded.
"""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
import triton
import triton.language as tl

from jaxllm.pallas_kernels.paged_attention.triton_heads import as_cached, norm_factors
from jaxllm.pallas_kernels.paged_attention.triton_softmax import fold, load_block, pages_of, start_softmax


@triton.jit
def prepare_kernel(
    keys,  # [pages, page_size, kv_heads, head_dim]; gets the tokens' keys
    values,
    qkv,  # [tokens, kv_heads, group + 2, head_dim]
    q_norm,
    k_norm,
    cos,  # [tokens, head_dim / 2]
    sin,
    slots,  # [tokens]
    query,  # [tokens, kv_heads, group, head_dim]
    TOKENS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF_BLOCK: tl.constexpr,  # half of HEAD_DIM padded to a power of two
    TOKEN_BLOCK: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,  # GROUP + 2 padded to a power of two
    EPS: tl.constexpr,
    OFFSET: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_ROPE: tl.constexpr,
    CACHE_LIMIT: tl.constexpr,
):
    # Vectors come as halves, which a rotation mixes: [tokens, members, entries].
    HALF: tl.constexpr = HEAD_DIM // 2
    head = tl.program_id(0)
    tokens = tl.program_id(1) * TOKEN_BLOCK + tl.arange(0, TOKEN_BLOCK)[:, None, None]
    members = tl.arange(0, HEAD_BLOCK)[None, :, None]
    entries = tl.arange(0, HALF_BLOCK)[None, None, :]
    inside = (tokens < TOKENS) & (members < GROUP + 2) & (entries < HALF)
    is_query, is_key, is_value = members < GROUP, members == GROUP, members == GROUP + 1
    rows = qkv + ((tokens * KV_HEADS + head).to(tl.int64) * (GROUP + 2) + members) * HEAD_DIM + entries
    first = tl.load(rows, mask=inside, other=0.0)
    second = tl.load(rows + HALF, mask=inside, other=0.0)
    slot = tl.load(slots + tokens, mask=tokens < TOKENS, other=0).to(tl.int64)
    places = tl.broadcast_to((slot * KV_HEADS + head) * HEAD_DIM + entries, [TOKEN_BLOCK, HEAD_BLOCK, HALF_BLOCK])
    tl.store(values + places, as_cached(first, values, CACHE_LIMIT), mask=inside & is_value)
    tl.store(values + places + HALF, as_cached(second, values, CACHE_LIMIT), mask=inside & is_value)
    if HAS_NORM:
        wide_first, wide_second = first.to(tl.float32), second.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide_first * wide_first + wide_second * wide_second, 2) / HEAD_DIM + EPS)[:, :, None]
        first_factors = _norm_factors(q_norm, k_norm, entries, is_query, HALF, OFFSET)
        second_factors = _norm_factors(q_norm + HALF, k_norm + HALF, entries, is_query, HALF, OFFSET)
        first = (wide_first * scale * first_factors).to(first.dtype)
        second = (wide_second * scale * second_factors).to(second.dtype)
    if HAS_ROPE:
        angles, is_angle = tokens * HALF + entries, (tokens < TOKENS) & (entries < HALF)
        cosines = tl.load(cos + angles, mask=is_angle, other=0.0)
        sines = tl.load(sin + angles, mask=is_angle, other=0.0)
        wide_first, wide_second = first.to(tl.float32), second.to(tl.float32)
        first = (wide_first * cosines - wide_second * sines).to(first.dtype)
        second = (wide_second * cosines + wide_first * sines).to(second.dtype)
    targets = query + ((tokens * KV_HEADS + head).to(tl.int64) * GROUP + members) * HEAD_DIM + entries
    tl.store(targets, first, mask=inside & is_query)
    tl.store(targets + HALF, second, mask=inside & is_query)
    tl.store(keys + places, as_cached(first, keys, CACHE_LIMIT), mask=inside & is_key)
    tl.store(keys + places + HALF, as_cached(second, keys, CACHE_LIMIT), mask=inside & is_key)


@triton.jit
def _norm_factors(q_norm, k_norm, entries, is_query, HALF: tl.constexpr, OFFSET: tl.constexpr):
    q_weights = norm_factors(q_norm, entries, entries, HALF, OFFSET)
    k_weights = norm_factors(k_norm, entries, entries, HALF, OFFSET)
    return tl.where(is_query, q_weights, k_weights)


@triton.jit
def chunk_kernel(
    query,  # [tokens, kv_heads, group, head_dim]; overwritten with what the queries attend to
    keys,
    values,
    sinks,
    positions,
    tables,
    tiles,  # [tiles, 3]: row, first token, tokens
    num_tiles,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    TABLE_PAGES: tl.constexpr,
    WINDOW: tl.constexpr,
    SCALE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    QUERY_BLOCK: tl.constexpr,
    PACK: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    first_head, piece = tl.program_id(0) * PACK, tl.program_id(1)
    # Later tiles have longer contexts: starting them first shortens the end of the kernel.
    tile = tl.load(num_tiles) - 1 - tl.program_id(2)
    if tile < 0:
        return
    row, first_token, count = tl.load(tiles + tile * 3), tl.load(tiles + tile * 3 + 1), tl.load(tiles + tile * 3 + 2)
    first = piece * (QUERY_BLOCK // PACK)
    if first >= count:
        return
    head = first_head // GROUP
    first_position = tl.load(positions + first_token) + first
    num_tokens = tl.minimum(count - first, QUERY_BLOCK // PACK)
    end = first_position + num_tokens

    lines, dims = tl.arange(0, QUERY_BLOCK), tl.arange(0, DIM_BLOCK)
    tokens, heads = lines // PACK, first_head + lines % PACK
    inside = (tokens < num_tokens)[:, None] & (dims < HEAD_DIM)[None, :]
    rows = (first_token + first + tokens).to(tl.int64) * (KV_HEADS * GROUP) + heads
    pointers = query + (rows * HEAD_DIM)[:, None] + dims[None, :]
    vectors = tl.load(pointers, mask=inside, other=0.0)
    query_positions = first_position + tokens
    table = tables + row * TABLE_PAGES

    # Blocks from `start` to `diagonal` are attended whole by every query, those from there on in part.
    start = 0
    diagonal = (first_position + 1) // BLOCK * BLOCK
    if WINDOW > 0:
        start = tl.maximum(first_position - WINDOW + 1, 0) // BLOCK * BLOCK
        diagonal = start
    largest, total = start_softmax(sinks + heads, tokens < num_tokens, QUERY_BLOCK, HAS_SINKS)
    weighted = tl.zeros([QUERY_BLOCK, DIM_BLOCK], tl.float32)
    pages = pages_of(table, start + tl.arange(0, BLOCK), end, PAGE_SIZE)
    for block in range(start, diagonal, BLOCK):
        places = block + tl.arange(0, BLOCK)
        next_pages = pages_of(table, places + BLOCK, end, PAGE_SIZE)
        block_keys = load_block(keys, pages, places, places, head, False, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        block_values = load_block(values, pages, places, places, head, False, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        largest, total, weighted = fold(
            largest,
            total,
            weighted,
            vectors,
            block_keys,
            block_values,
            places[None, :],
            False,
            False,
            SCALE,
            SOFT_CAP,
            PRECISION,
        )
        pages = next_pages
    for block in range(diagonal, end, BLOCK):
        places = block + tl.arange(0, BLOCK)
        next_pages = pages_of(table, places + BLOCK, end, PAGE_SIZE)
        present = places < end
        kept = places[None, :] <= query_positions[:, None]
        if WINDOW > 0:
            kept &= places[None, :] > query_positions[:, None] - WINDOW
        block_keys = load_block(keys, pages, places, present, head, True, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        block_values = load_block(values, pages, places, present, head, True, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        largest, total, weighted = fold(
            largest,
            total,
            weighted,
            vectors,
            block_keys,
            block_values,
            kept,
            True,
            WINDOW > 0,
            SCALE,
            SOFT_CAP,
            PRECISION,
        )
        pages = next_pages

    # Queries past the end of the tile have no tokens of their own: theirs may be a sum of nothing.
    attended = weighted / tl.maximum(total, 1e-30)[:, None]
    tl.store(pointers, attended.to(query.dtype.element_ty), mask=inside)
