"""Triton kernels of paged attention. Running softmax (Dao et al. 2022) over blocks of cached tokens, float32 sums.

decode_kernel    grid (kv_heads, splits, rows): one token's group of query heads over one split of its context, after
                 Flash-Decoding (Dao et al. 2023); rows from `num_decodes` on exit at once
combine_kernel   grid (query heads, rows): adds up the splits
chunk_kernel     grid (query heads, pieces of a tile, tiles): consecutive tokens of one prompt over the context up to
                 them; tiles from `num_tiles` on exit at once

A block is gathered token by token through the page table, so that any page size serves. Scores are in units of log 2.
Compile-time constants are in capitals: WINDOW and SOFT_CAP are 0 where there is none; GROUP and HEAD_DIM are padded to
GROUP_BLOCK and DIM_BLOCK, powers of two of at least 16, the least that the matrix units take.
"""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
MASKED = tl.constexpr(-1e30)


@triton.jit
def _load_block(
    pool,
    places,
    kept,
    table,
    head,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
):
    """Keys or values of one head at `places`, [places, DIM_BLOCK]; zeros where not `kept`."""
    pages = tl.load(table + places // PAGE_SIZE, mask=kept, other=0).to(tl.int64)
    slots = pages * PAGE_SIZE + places % PAGE_SIZE
    dims = tl.arange(0, DIM_BLOCK)
    pointers = pool + ((slots * KV_HEADS + head) * HEAD_DIM)[:, None] + dims[None, :]
    return tl.load(pointers, mask=kept[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)


@triton.jit
def _scores(query, keys, SCALE: tl.constexpr, SOFT_CAP: tl.constexpr, PRECISION: tl.constexpr):
    scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
    if SOFT_CAP > 0:
        # tanh(x) = 1 - 2 / (exp(2 x) + 1)
        grown = tl.exp2(scores * (2.0 * SCALE * LOG2_E / SOFT_CAP))
        return (1.0 - 2.0 / (grown + 1.0)) * (SOFT_CAP * LOG2_E)
    return scores * (SCALE * LOG2_E)


@triton.jit
def _fold(largest, total, weighted, scores, kept, values, IS_MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """The running softmax with one more block."""
    if IS_MASKED:
        scores = tl.where(kept, scores, MASKED)
    new_largest = tl.maximum(largest, tl.max(scores, 1))
    exponentials = tl.exp2(scores - new_largest[:, None])
    if IS_MASKED:
        # A row whose block is masked whole keeps the largest score MASKED; its exponentials must still be zero.
        exponentials = tl.where(kept, exponentials, 0.0)
    shrink = tl.exp2(largest - new_largest)
    total = total * shrink + tl.sum(exponentials, 1)
    weighted = tl.dot(exponentials.to(values.dtype), values, weighted * shrink[:, None], input_precision=PRECISION)
    return new_largest, total, weighted


@triton.jit
def decode_kernel(
    query,  # [tokens, kv_heads, group, head_dim]
    keys,  # [pages, page_size, kv_heads, head_dim]
    values,
    tables,  # [rows, TABLE_PAGES]
    context_lens,
    num_decodes,
    partial,  # [rows, kv_heads, splits, group, head_dim], float32
    stats,  # [rows, kv_heads, splits, 2, group]: largest score and sum of exponentials, float32
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    TABLE_PAGES: tl.constexpr,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,
    SCALE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if row >= tl.load(num_decodes):
        return
    context = tl.load(context_lens + row)
    first_kept = 0
    if WINDOW > 0:
        first_kept = tl.maximum(context - WINDOW, 0)
    first_block = first_kept // BLOCK
    split_blocks = tl.cdiv(tl.cdiv(context, BLOCK) - first_block, SPLITS)
    start = (first_block + split * split_blocks) * BLOCK
    end = tl.minimum(start + split_blocks * BLOCK, context)

    members, dims = tl.arange(0, GROUP_BLOCK), tl.arange(0, DIM_BLOCK)
    inside = (members < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    offsets = members[:, None] * HEAD_DIM + dims[None, :]
    vectors = tl.load(query + (row * KV_HEADS + head) * GROUP * HEAD_DIM + offsets, mask=inside, other=0.0)
    table = tables + row * TABLE_PAGES

    largest = tl.full([GROUP_BLOCK], MASKED, tl.float32)
    total = tl.zeros([GROUP_BLOCK], tl.float32)
    weighted = tl.zeros([GROUP_BLOCK, DIM_BLOCK], tl.float32)
    for block in range(start, end, BLOCK):
        places = block + tl.arange(0, BLOCK)
        kept = places < end
        if WINDOW > 0:
            kept &= places >= first_kept
        block_keys = _load_block(keys, places, kept, table, head, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        block_values = _load_block(values, places, kept, table, head, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        scores = _scores(vectors, block_keys, SCALE, SOFT_CAP, PRECISION)
        largest, total, weighted = _fold(largest, total, weighted, scores, kept[None, :], block_values, True, PRECISION)

    piece = ((row * KV_HEADS + head) * SPLITS + split).to(tl.int64)
    tl.store(stats + piece * 2 * GROUP + members, largest, mask=members < GROUP)
    tl.store(stats + (piece * 2 + 1) * GROUP + members, total, mask=members < GROUP)
    if start < end:
        tl.store(partial + piece * GROUP * HEAD_DIM + offsets, weighted, mask=inside)


@triton.jit
def combine_kernel(
    out,  # [tokens, kv_heads, group, head_dim]
    partial,
    stats,
    num_decodes,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
):
    query_head, row = tl.program_id(0), tl.program_id(1)
    if row >= tl.load(num_decodes):
        return
    head, member = query_head // GROUP, query_head % GROUP
    splits, dims = tl.arange(0, SPLITS), tl.arange(0, DIM_BLOCK)
    pieces = ((row * KV_HEADS + head) * SPLITS + splits).to(tl.int64)
    largest = tl.load(stats + pieces * 2 * GROUP + member)
    total = tl.load(stats + (pieces * 2 + 1) * GROUP + member)
    shares = tl.exp2(largest - tl.max(largest, 0))
    # Splits without tokens have written no vector.
    used = total > 0
    weighted = tl.load(
        partial + ((pieces * GROUP + member) * HEAD_DIM)[:, None] + dims[None, :],
        mask=used[:, None] & (dims < HEAD_DIM)[None, :],
        other=0.0,
    )
    attended = tl.sum(weighted * shares[:, None], 0) / tl.sum(total * shares, 0)
    pointers = out + (row * KV_HEADS * GROUP + query_head) * HEAD_DIM + dims
    tl.store(pointers, attended.to(out.dtype.element_ty), mask=dims < HEAD_DIM)


@triton.jit
def chunk_kernel(
    query,  # [tokens, kv_heads, group, head_dim]; overwritten with what the queries attend to
    keys,
    values,
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
    DIM_BLOCK: tl.constexpr,
    QUERY_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    query_head, piece = tl.program_id(0), tl.program_id(1)
    # Later tiles have longer contexts: starting them first shortens the end of the kernel.
    tile = tl.load(num_tiles) - 1 - tl.program_id(2)
    if tile < 0:
        return
    row, first_token, count = tl.load(tiles + tile * 3), tl.load(tiles + tile * 3 + 1), tl.load(tiles + tile * 3 + 2)
    first = piece * QUERY_BLOCK
    if first >= count:
        return
    head = query_head // GROUP
    first_position = tl.load(positions + first_token) + first
    num_queries = tl.minimum(count - first, QUERY_BLOCK)
    end = first_position + num_queries

    queries, dims = tl.arange(0, QUERY_BLOCK), tl.arange(0, DIM_BLOCK)
    inside = (queries < num_queries)[:, None] & (dims < HEAD_DIM)[None, :]
    rows = (first_token + first + queries).to(tl.int64) * (KV_HEADS * GROUP) + query_head
    pointers = query + (rows * HEAD_DIM)[:, None] + dims[None, :]
    vectors = tl.load(pointers, mask=inside, other=0.0)
    query_positions = first_position + queries
    table = tables + row * TABLE_PAGES

    # Blocks from `start` to `diagonal` are attended whole by every query, those from there on in part.
    start = 0
    diagonal = (first_position + 1) // BLOCK * BLOCK
    if WINDOW > 0:
        start = tl.maximum(first_position - WINDOW + 1, 0) // BLOCK * BLOCK
        diagonal = start
    largest = tl.full([QUERY_BLOCK], MASKED, tl.float32)
    total = tl.zeros([QUERY_BLOCK], tl.float32)
    weighted = tl.zeros([QUERY_BLOCK, DIM_BLOCK], tl.float32)
    for block in range(start, diagonal, BLOCK):
        places = block + tl.arange(0, BLOCK)
        present = places >= 0
        block_keys = _load_block(keys, places, present, table, head, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        block_values = _load_block(values, places, present, table, head, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        scores = _scores(vectors, block_keys, SCALE, SOFT_CAP, PRECISION)
        largest, total, weighted = _fold(largest, total, weighted, scores, present, block_values, False, PRECISION)
    for block in range(diagonal, end, BLOCK):
        places = block + tl.arange(0, BLOCK)
        present = places < end
        kept = places[None, :] <= query_positions[:, None]
        if WINDOW > 0:
            kept &= places[None, :] > query_positions[:, None] - WINDOW
        block_keys = _load_block(keys, places, present, table, head, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        block_values = _load_block(values, places, present, table, head, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        scores = _scores(vectors, block_keys, SCALE, SOFT_CAP, PRECISION)
        largest, total, weighted = _fold(largest, total, weighted, scores, kept, block_values, True, PRECISION)

    # Queries past the end of the tile have no tokens of their own: theirs may be a sum of nothing.
    attended = weighted / tl.maximum(total, 1e-30)[:, None]
    tl.store(pointers, attended.to(query.dtype.element_ty), mask=inside)
