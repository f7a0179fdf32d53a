"""Triton kernels of paged attention for decode rows.

decode_step_kernel  grid (kv_heads, items): a step of decode rows only. An item is one token's group of query heads over
                    a part of its context (see schedule.py). The item that ends the context takes the token's own key
                    and value from the projections and writes them to the cache; it also begins with the sinks.
decode_kernel       the same for rows whose keys and values are in the cache already, in place of the queries
"""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
import triton
import triton.language as tl

from jaxllm.pallas_kernels.paged_attention.triton_heads import as_cached, turn
from jaxllm.pallas_kernels.paged_attention.triton_softmax import (
    capped,
    fold,
    load_block,
    pages_of,
    score_factor,
    start_softmax,
)
from jaxllm.pallas_kernels.paged_attention.triton_splits import finish


@triton.jit
def _attend(
    vectors,
    keys,
    values,
    table,
    pages,
    head,
    start,
    end,
    first_kept,
    sinks,
    is_last,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SCALE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(largest, total, weighted) of one token over the cached tokens from `start` to `end`; `pages` are the first."""
    members = tl.arange(0, GROUP_BLOCK)
    largest, total = start_softmax(sinks + head * GROUP + members, (members < GROUP) & is_last, GROUP_BLOCK, HAS_SINKS)
    weighted = tl.zeros([GROUP_BLOCK, DIM_BLOCK], tl.float32)
    for block in range(start, end, BLOCK):
        places = block + tl.arange(0, BLOCK)
        next_pages = pages_of(table, places + BLOCK, end, PAGE_SIZE)
        kept = places < end
        if WINDOW > 0:
            kept &= places >= first_kept
        block_keys = load_block(keys, pages, places, kept, head, True, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        block_values = load_block(values, pages, places, kept, head, True, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        largest, total, weighted = fold(
            largest,
            total,
            weighted,
            vectors,
            block_keys,
            block_values,
            kept[None, :],
            True,
            False,
            SCALE,
            SOFT_CAP,
            PRECISION,
        )
        pages = next_pages
    return largest, total, weighted


@triton.jit
def decode_step_kernel(
    qkv,  # [rows, kv_heads, group + 2, head_dim]
    keys,  # [pages, page_size, kv_heads, head_dim]; gets the rows' keys
    values,
    q_norm,  # [head_dim]
    k_norm,
    cos,  # [rows, head_dim / 2]
    sin,
    sinks,  # [kv_heads, group]
    tables,  # [rows, TABLE_PAGES]
    context_lens,
    items,  # [items, 4]
    counters,  # [rows, kv_heads], zeros
    out,  # [rows, kv_heads, group, head_dim]
    partial,  # [items, kv_heads, group, head_dim], float32
    stats,  # [items, kv_heads, 2, group]: largest score and sum of exponentials, float32
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    TABLE_PAGES: tl.constexpr,
    WINDOW: tl.constexpr,
    SCALE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    MEMBERS: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    EPS: tl.constexpr,
    OFFSET: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_ROPE: tl.constexpr,
    CACHE_LIMIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head, item = tl.program_id(0), tl.program_id(1)
    row = tl.load(items + item * 4)
    start, end = tl.load(items + item * 4 + 1), tl.load(items + item * 4 + 2)
    counts = tl.load(items + item * 4 + 3)
    if row < 0:
        return
    split, splits = counts & 0xFFFF, counts >> 16
    table = tables + row * TABLE_PAGES
    pages = pages_of(table, start + tl.arange(0, BLOCK), end, PAGE_SIZE)
    # The first run of a program has nothing but zeros in its inputs.
    position = tl.maximum(tl.load(context_lens + row) - 1, 0)
    is_last = split == splits - 1

    members, dims = tl.arange(0, GROUP_BLOCK), tl.arange(0, DIM_BLOCK)
    base = qkv + (row * KV_HEADS + head).to(tl.int64) * (GROUP + 2) * HEAD_DIM
    cos += row * (HEAD_DIM // 2)
    sin += row * (HEAD_DIM // 2)
    inside = (members < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    rows = base + members[:, None] * HEAD_DIM
    vectors = turn(rows, inside, dims, q_norm, cos, sin, HEAD_DIM, EPS, OFFSET, HAS_NORM, HAS_ROPE)
    first_kept = 0
    if WINDOW > 0:
        first_kept = tl.maximum(position + 1 - WINDOW, 0)
    largest, total, weighted = _attend(
        vectors,
        keys,
        values,
        table,
        pages,
        head,
        start,
        end,
        first_kept,
        sinks,
        is_last,
        KV_HEADS,
        GROUP,
        HEAD_DIM,
        PAGE_SIZE,
        WINDOW,
        SCALE,
        SOFT_CAP,
        HAS_SINKS,
        GROUP_BLOCK,
        DIM_BLOCK,
        BLOCK,
        PRECISION,
    )

    # The last item adds the token itself, from the projections, and writes it to the cache.
    if is_last:
        one = tl.arange(0, 1)[:, None]
        is_dim = (dims < HEAD_DIM)[None, :]
        own = base + GROUP * HEAD_DIM + one
        key = turn(own, is_dim, dims, k_norm, cos, sin, HEAD_DIM, EPS, OFFSET, HAS_NORM, HAS_ROPE)
        value = tl.load(own + HEAD_DIM + dims[None, :], mask=is_dim, other=0.0)
        page = tl.load(table + position // PAGE_SIZE).to(tl.int64)
        slot = ((page * PAGE_SIZE + position % PAGE_SIZE) * KV_HEADS + head) * HEAD_DIM
        # It attends to itself as later tokens will to it.
        key, value = as_cached(key, keys, CACHE_LIMIT), as_cached(value, values, CACHE_LIMIT)
        tl.store(keys + slot + one + dims[None, :], key, mask=is_dim)
        tl.store(values + slot + one + dims[None, :], value, mask=is_dim)
        products = tl.sum(vectors.to(tl.float32) * key.to(tl.float32), 1)
        score = capped(products, SCALE, SOFT_CAP) * score_factor(SCALE, SOFT_CAP)
        new_largest = tl.maximum(largest, score)
        exponential, shrink = tl.exp2(score - new_largest), tl.exp2(largest - new_largest)
        total = total * shrink + exponential
        weighted = weighted * shrink[:, None] + exponential[:, None] * value.to(tl.float32)
        largest = new_largest
    finish(
        largest,
        total,
        weighted,
        out,
        partial,
        stats,
        counters,
        row,
        head,
        item,
        split,
        splits,
        KV_HEADS,
        GROUP,
        HEAD_DIM,
        GROUP_BLOCK,
        MEMBERS,
        DIM_BLOCK,
        SPLITS,
    )


@triton.jit
def decode_kernel(
    query,  # [tokens, kv_heads, group, head_dim]; overwritten with what the queries attend to
    keys,
    values,
    sinks,
    tables,
    context_lens,
    items,
    counters,
    partial,
    stats,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    TABLE_PAGES: tl.constexpr,
    WINDOW: tl.constexpr,
    SCALE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    MEMBERS: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head, item = tl.program_id(0), tl.program_id(1)
    row = tl.load(items + item * 4)
    start, end = tl.load(items + item * 4 + 1), tl.load(items + item * 4 + 2)
    counts = tl.load(items + item * 4 + 3)
    if row < 0:
        return
    split, splits = counts & 0xFFFF, counts >> 16
    is_last = split == splits - 1
    table = tables + row * TABLE_PAGES
    pages = pages_of(table, start + tl.arange(0, BLOCK), end, PAGE_SIZE)
    members, dims = tl.arange(0, GROUP_BLOCK), tl.arange(0, DIM_BLOCK)
    inside = (members < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    base = query + (row * KV_HEADS + head).to(tl.int64) * GROUP * HEAD_DIM
    vectors = tl.load(base + members[:, None] * HEAD_DIM + dims[None, :], mask=inside, other=0.0)
    first_kept = 0
    if WINDOW > 0:
        first_kept = tl.maximum(tl.load(context_lens + row) - WINDOW, 0)
    largest, total, weighted = _attend(
        vectors,
        keys,
        values,
        table,
        pages,
        head,
        start,
        end,
        first_kept,
        sinks,
        is_last,
        KV_HEADS,
        GROUP,
        HEAD_DIM,
        PAGE_SIZE,
        WINDOW,
        SCALE,
        SOFT_CAP,
        HAS_SINKS,
        GROUP_BLOCK,
        DIM_BLOCK,
        BLOCK,
        PRECISION,
    )
    finish(
        largest,
        total,
        weighted,
        query,
        partial,
        stats,
        counters,
        row,
        head,
        item,
        split,
        splits,
        KV_HEADS,
        GROUP,
        HEAD_DIM,
        GROUP_BLOCK,
        MEMBERS,
        DIM_BLOCK,
        SPLITS,
    )
