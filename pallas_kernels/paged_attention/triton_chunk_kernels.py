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
    DIM_BLOCK: tl.constexpr,
    TOKEN_BLOCK: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,  # GROUP + 2 padded to a power of two
    EPS: tl.constexpr,
    OFFSET: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_ROPE: tl.constexpr,
    CACHE_LIMIT: tl.constexpr,
):
    head = tl.program_id(0)
    lines, dims = tl.arange(0, TOKEN_BLOCK * HEAD_BLOCK), tl.arange(0, DIM_BLOCK)
    tokens, members = tl.program_id(1) * TOKEN_BLOCK + lines // HEAD_BLOCK, lines % HEAD_BLOCK
    is_line = (tokens < TOKENS) & (members < GROUP + 2)
    inside = is_line[:, None] & (dims < HEAD_DIM)[None, :]
    HALF: tl.constexpr = HEAD_DIM // 2
    rows = qkv + (((tokens * KV_HEADS + head).to(tl.int64) * (GROUP + 2) + members) * HEAD_DIM)[:, None]
    plain = tl.load(rows + dims[None, :], mask=inside, other=0.0)
    vectors = plain
    is_query = (members < GROUP)[:, None]
    if HAS_NORM:
        wide = vectors.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, 1) / HEAD_DIM + EPS)[:, None]
        q_weights = norm_factors(q_norm, dims, dims, HEAD_DIM, OFFSET)[None, :]
        k_weights = norm_factors(k_norm, dims, dims, HEAD_DIM, OFFSET)[None, :]
        vectors = (wide * scale * tl.where(is_query, q_weights, k_weights)).to(plain.dtype)
    if HAS_ROPE:
        is_first = dims < HALF
        others = tl.where(is_first, dims + HALF, dims - HALF)
        pairs = tl.load(rows + others[None, :], mask=inside, other=0.0)
        if HAS_NORM:
            q_weights = norm_factors(q_norm, others, dims, HEAD_DIM, OFFSET)[None, :]
            k_weights = norm_factors(k_norm, others, dims, HEAD_DIM, OFFSET)[None, :]
            pairs = (pairs.to(tl.float32) * scale * tl.where(is_query, q_weights, k_weights)).to(plain.dtype)
        angles = (tokens * HALF)[:, None] + tl.where(is_first, dims, dims - HALF)[None, :]
        cosines = tl.load(cos + angles, mask=inside, other=0.0)
        sines = tl.load(sin + angles, mask=inside, other=0.0)
        sines = tl.where(is_first[None, :], -sines, sines)
        vectors = (vectors.to(tl.float32) * cosines + pairs.to(tl.float32) * sines).to(plain.dtype)
    places = ((tokens * KV_HEADS + head).to(tl.int64) * GROUP + members) * HEAD_DIM
    tl.store(query + places[:, None] + dims[None, :], vectors, mask=inside & is_query)
    slot = tl.load(slots + tokens, mask=is_line, other=0).to(tl.int64)
    entries = ((slot * KV_HEADS + head) * HEAD_DIM)[:, None] + dims[None, :]
    tl.store(keys + entries, as_cached(vectors, keys, CACHE_LIMIT), mask=inside & (members == GROUP)[:, None])
    tl.store(values + entries, as_cached(plain, values, CACHE_LIMIT), mask=inside & (members == GROUP + 1)[:, None])


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
