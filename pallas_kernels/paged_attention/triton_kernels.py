"""Triton kernels of paged attention. Running softmax (Dao et al. 2022) over blocks of cached tokens, float32 sums.

decode_step_kernel  grid (kv_heads, items): a step of decode rows only. An item is one token's group of query heads over
                    a part of its context (see schedule.py). The item that ends the context takes the token's own key
                    and value from the projections and writes them to the cache.
decode_kernel       the same for rows whose keys and values are in the cache already, in place of the queries
prepare_kernel      grid (kv_heads, blocks of tokens): norm, rotary embedding and cache write of a step with chunks
chunk_kernel        grid (heads / PACK, pieces of a tile, tiles): consecutive tokens of one prompt over the context up
                    to them; tiles from `num_tiles` on exit at once. PACK query heads of a group share what is loaded.

The items of a row are added up by the one that ends last, after Flash-Decoding (Dao et al. 2023): `counters` holds how
many are through, zero before and after every call, so that all calls of a program share one array of zeros.

A block is gathered token by token through the page table, so that any page size serves. Scores are in units of log 2.
Compile-time constants are in capitals: WINDOW and SOFT_CAP are 0 where there is none; GROUP and HEAD_DIM are padded to
GROUP_BLOCK and DIM_BLOCK, powers of two of at least 16, the least that the matrix units take, MEMBERS is GROUP padded
to any power of two. A sink is a score whose value is zero, so the running softmax begins with it where there is one;
of a row's items the last does.
"""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
MASKED = tl.constexpr(-1e30)


@triton.jit
def _pages(table, places, end, PAGE_SIZE: tl.constexpr):
    """The pages of the context's `places`, those before `end`. Asked for a block ahead, their latency is hidden."""
    return tl.load(table + places // PAGE_SIZE, mask=places < end, other=0)


@triton.jit
def _load_block(
    pool,
    pages,
    places,
    kept,
    head,
    IS_MASKED: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
):
    """Keys or values of one head at `places`, [places, DIM_BLOCK]. IS_MASKED: zeros where not `kept`."""
    slots = pages.to(tl.int64) * PAGE_SIZE + places % PAGE_SIZE
    dims = tl.arange(0, DIM_BLOCK)
    pointers = pool + ((slots * KV_HEADS + head) * HEAD_DIM)[:, None] + dims[None, :]
    if IS_MASKED:
        if HEAD_DIM == DIM_BLOCK:
            block = tl.load(pointers, mask=kept[:, None], other=0.0)
        else:
            block = tl.load(pointers, mask=kept[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    else:
        if HEAD_DIM == DIM_BLOCK:
            block = tl.load(pointers)
        else:
            block = tl.load(pointers, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    return block


@triton.jit
def _capped(products, SCALE: tl.constexpr, SOFT_CAP: tl.constexpr):
    """Scores in units of log 2 / _factor: the products themselves where there is no cap."""
    if SOFT_CAP > 0:
        # tanh(x) = 1 - 2 / (exp(2 x) + 1)
        grown = tl.exp2(products * (2.0 * SCALE * LOG2_E / SOFT_CAP))
        return 1.0 - 2.0 / (grown + 1.0)
    return products


@triton.jit
def _factor(SCALE: tl.constexpr, SOFT_CAP: tl.constexpr):
    if SOFT_CAP > 0:
        return SOFT_CAP * LOG2_E
    return SCALE * LOG2_E


@triton.jit
def _fold(
    largest,
    total,
    weighted,
    query,
    keys,
    values,
    kept,
    IS_MASKED: tl.constexpr,
    MAY_BE_EMPTY: tl.constexpr,
    SCALE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The running softmax with one more block, which may be of another type than the query."""
    keys, values = keys.to(query.dtype), values.to(query.dtype)
    scores = _capped(tl.dot(query, tl.trans(keys), input_precision=PRECISION), SCALE, SOFT_CAP)
    if IS_MASKED:
        scores = tl.where(kept, scores, MASKED)
    factor = _factor(SCALE, SOFT_CAP)
    new_largest = tl.maximum(largest, tl.max(scores, 1) * factor)
    exponentials = tl.exp2(scores * factor - new_largest[:, None])
    if MAY_BE_EMPTY:
        # A row whose blocks were masked whole so far keeps a largest score of MASKED; its exponentials must be zero.
        exponentials = tl.where(kept, exponentials, 0.0)
    shrink = tl.exp2(largest - new_largest)
    total = total * shrink + tl.sum(exponentials, 1)
    weighted = tl.dot(exponentials.to(values.dtype), values, weighted * shrink[:, None], input_precision=PRECISION)
    return new_largest, total, weighted


@triton.jit
def _start(sinks, kept, SIZE: tl.constexpr, HAS_SINKS: tl.constexpr):
    """(largest, total) of the running softmax before the first block; `sinks` are pointers, read where `kept`."""
    largest = tl.full([SIZE], MASKED, tl.float32)
    total = tl.zeros([SIZE], tl.float32)
    if HAS_SINKS:
        largest = tl.where(kept, tl.load(sinks, mask=kept, other=0.0).to(tl.float32) * LOG2_E, largest)
        total = tl.where(kept, 1.0, total)
    return largest, total


@triton.jit
def _as_cached(entries, pool, CACHE_LIMIT: tl.constexpr):
    """Entries as the pool holds them; CACHE_LIMIT is the largest it can hold, 0 where it holds what comes."""
    if CACHE_LIMIT > 0:
        entries = tl.clamp(entries.to(tl.float32), -CACHE_LIMIT, CACHE_LIMIT, tl.PropagateNan.ALL)
    return entries.to(pool.dtype.element_ty)


@triton.jit
def _factors(weight, entries, dims, HEAD_DIM: tl.constexpr, OFFSET: tl.constexpr):
    return tl.load(weight + entries, mask=dims < HEAD_DIM, other=0.0).to(tl.float32) + OFFSET


@triton.jit
def _turned(
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
        weights = _factors(weight, dims, dims, HEAD_DIM, OFFSET)
        vectors = (wide * scale * weights[None, :]).to(vectors.dtype)
    if HAS_ROPE:
        HALF: tl.constexpr = HEAD_DIM // 2
        is_first = dims < HALF
        others = tl.where(is_first, dims + HALF, dims - HALF)
        pairs = tl.load(rows + others[None, :], mask=inside, other=0.0)
        if HAS_NORM:
            weights = _factors(weight, others, dims, HEAD_DIM, OFFSET)
            pairs = (pairs.to(tl.float32) * scale * weights[None, :]).to(vectors.dtype)
        angles = tl.where(is_first, dims, dims - HALF)
        cosines = tl.load(cos + angles, mask=dims < HEAD_DIM, other=0.0)
        sines = tl.load(sin + angles, mask=dims < HEAD_DIM, other=0.0)
        sines = tl.where(is_first, -sines, sines)
        turned = vectors.to(tl.float32) * cosines[None, :] + pairs.to(tl.float32) * sines[None, :]
        vectors = turned.to(vectors.dtype)
    return vectors


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
    largest, total = _start(sinks + head * GROUP + members, (members < GROUP) & is_last, GROUP_BLOCK, HAS_SINKS)
    weighted = tl.zeros([GROUP_BLOCK, DIM_BLOCK], tl.float32)
    for block in range(start, end, BLOCK):
        places = block + tl.arange(0, BLOCK)
        next_pages = _pages(table, places + BLOCK, end, PAGE_SIZE)
        kept = places < end
        if WINDOW > 0:
            kept &= places >= first_kept
        block_keys = _load_block(keys, pages, places, kept, head, True, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        block_values = _load_block(values, pages, places, kept, head, True, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        largest, total, weighted = _fold(
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
def _finish(
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
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    MEMBERS: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Writes what a row attends to: at once if it has one item, else when its last item comes through here."""
    members, dims = tl.arange(0, GROUP_BLOCK), tl.arange(0, DIM_BLOCK)
    inside = (members < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    offsets = members[:, None] * HEAD_DIM + dims[None, :]
    target = out + (row * KV_HEADS + head).to(tl.int64) * GROUP * HEAD_DIM
    if splits == 1:
        tl.store(target + offsets, (weighted / total[:, None]).to(out.dtype.element_ty), mask=inside)
    else:
        piece = item * KV_HEADS + head
        tl.store(stats + piece * 2 * GROUP + members, largest, mask=members < GROUP)
        tl.store(stats + (piece * 2 + 1) * GROUP + members, total, mask=members < GROUP)
        tl.store(partial + piece * GROUP * HEAD_DIM + offsets, weighted, mask=inside)
        # All threads' stores come before the count, and the reads of the last to count come after everyone's.
        tl.debug_barrier()
        counter = counters + row * KV_HEADS + head
        if tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == splits - 1:
            tl.store(counter, 0)
            _combine(
                target,
                partial,
                stats,
                item - split,
                head,
                splits,
                KV_HEADS,
                GROUP,
                HEAD_DIM,
                MEMBERS,
                DIM_BLOCK,
                SPLITS,
            )


@triton.jit
def _combine(
    target,
    partial,
    stats,
    first_item,
    head,
    splits,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    MEMBERS: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Adds up `splits` items, at most SPLITS, from `first_item` on."""
    members, dims = tl.arange(0, MEMBERS), tl.arange(0, DIM_BLOCK)
    offsets = members[:, None] * HEAD_DIM + dims[None, :]
    inside = (members < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    indices = tl.arange(0, SPLITS)
    is_one = (indices < splits)[:, None] & (members < GROUP)[None, :]
    # What other programs wrote is read past the first-level cache.
    places = (((first_item + indices) * KV_HEADS + head) * 2 * GROUP)[:, None] + members[None, :]
    every_largest = tl.load(stats + places, mask=is_one, other=MASKED, cache_modifier=".cg")
    every_total = tl.load(stats + places + GROUP, mask=is_one, other=0.0, cache_modifier=".cg")
    largest = tl.max(every_largest, 0)
    total = tl.sum(every_total * tl.exp2(every_largest - largest[None, :]), 0)
    weighted = tl.zeros([MEMBERS, DIM_BLOCK], tl.float32)
    for index in tl.range(0, splits, loop_unroll_factor=8):
        piece = (first_item + index) * KV_HEADS + head
        one = tl.load(partial + piece * GROUP * HEAD_DIM + offsets, mask=inside, other=0.0, cache_modifier=".cg")
        its = tl.load(stats + piece * 2 * GROUP + members, mask=members < GROUP, other=MASKED, cache_modifier=".cg")
        weighted += one * tl.exp2(its - largest)[:, None]
    tl.store(target + offsets, (weighted / total[:, None]).to(target.dtype.element_ty), mask=inside)


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
    pages = _pages(table, start + tl.arange(0, BLOCK), end, PAGE_SIZE)
    # The first run of a program has nothing but zeros in its inputs.
    position = tl.maximum(tl.load(context_lens + row) - 1, 0)
    is_last = split == splits - 1

    members, dims = tl.arange(0, GROUP_BLOCK), tl.arange(0, DIM_BLOCK)
    base = qkv + (row * KV_HEADS + head).to(tl.int64) * (GROUP + 2) * HEAD_DIM
    cos += row * (HEAD_DIM // 2)
    sin += row * (HEAD_DIM // 2)
    inside = (members < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    rows = base + members[:, None] * HEAD_DIM
    vectors = _turned(rows, inside, dims, q_norm, cos, sin, HEAD_DIM, EPS, OFFSET, HAS_NORM, HAS_ROPE)
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
        key = _turned(own, is_dim, dims, k_norm, cos, sin, HEAD_DIM, EPS, OFFSET, HAS_NORM, HAS_ROPE)
        value = tl.load(own + HEAD_DIM + dims[None, :], mask=is_dim, other=0.0)
        page = tl.load(table + position // PAGE_SIZE).to(tl.int64)
        slot = ((page * PAGE_SIZE + position % PAGE_SIZE) * KV_HEADS + head) * HEAD_DIM
        # It attends to itself as later tokens will to it.
        key, value = _as_cached(key, keys, CACHE_LIMIT), _as_cached(value, values, CACHE_LIMIT)
        tl.store(keys + slot + one + dims[None, :], key, mask=is_dim)
        tl.store(values + slot + one + dims[None, :], value, mask=is_dim)
        products = tl.sum(vectors.to(tl.float32) * key.to(tl.float32), 1)
        score = _capped(products, SCALE, SOFT_CAP) * _factor(SCALE, SOFT_CAP)
        new_largest = tl.maximum(largest, score)
        exponential, shrink = tl.exp2(score - new_largest), tl.exp2(largest - new_largest)
        total = total * shrink + exponential
        weighted = weighted * shrink[:, None] + exponential[:, None] * value.to(tl.float32)
        largest = new_largest
    _finish(
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
    pages = _pages(table, start + tl.arange(0, BLOCK), end, PAGE_SIZE)
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
    _finish(
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
        q_weights = _factors(q_norm, dims, dims, HEAD_DIM, OFFSET)[None, :]
        k_weights = _factors(k_norm, dims, dims, HEAD_DIM, OFFSET)[None, :]
        vectors = (wide * scale * tl.where(is_query, q_weights, k_weights)).to(plain.dtype)
    if HAS_ROPE:
        is_first = dims < HALF
        others = tl.where(is_first, dims + HALF, dims - HALF)
        pairs = tl.load(rows + others[None, :], mask=inside, other=0.0)
        if HAS_NORM:
            q_weights = _factors(q_norm, others, dims, HEAD_DIM, OFFSET)[None, :]
            k_weights = _factors(k_norm, others, dims, HEAD_DIM, OFFSET)[None, :]
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
    tl.store(keys + entries, _as_cached(vectors, keys, CACHE_LIMIT), mask=inside & (members == GROUP)[:, None])
    tl.store(values + entries, _as_cached(plain, values, CACHE_LIMIT), mask=inside & (members == GROUP + 1)[:, None])


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
    largest, total = _start(sinks + heads, tokens < num_tokens, QUERY_BLOCK, HAS_SINKS)
    weighted = tl.zeros([QUERY_BLOCK, DIM_BLOCK], tl.float32)
    pages = _pages(table, start + tl.arange(0, BLOCK), end, PAGE_SIZE)
    for block in range(start, diagonal, BLOCK):
        places = block + tl.arange(0, BLOCK)
        next_pages = _pages(table, places + BLOCK, end, PAGE_SIZE)
        block_keys = _load_block(keys, pages, places, places, head, False, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        block_values = _load_block(values, pages, places, places, head, False, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        largest, total, weighted = _fold(
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
        next_pages = _pages(table, places + BLOCK, end, PAGE_SIZE)
        present = places < end
        kept = places[None, :] <= query_positions[:, None]
        if WINDOW > 0:
            kept &= places[None, :] > query_positions[:, None] - WINDOW
        block_keys = _load_block(keys, pages, places, present, head, True, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        block_values = _load_block(values, pages, places, present, head, True, KV_HEADS, HEAD_DIM, PAGE_SIZE, DIM_BLOCK)
        largest, total, weighted = _fold(
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
