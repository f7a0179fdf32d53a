"""Gluon kernel of prompt chunks for Hopper, after FlashAttention-3 (Shah et al. 2024).

chunk_hopper_kernel  grid (programs,): each program takes its share of the items, an item being a piece of a tile for
                     PACK heads of a group, as a program of `chunk_kernel` is. For heads of 64 or 128 in 16 bits.
                     Two groups of four warps attend, each for half of the queries; a third brings blocks of keys and
                     values from the pages with the tensor memory accelerator, page by page, STAGES blocks ahead, the
                     next item's while the last one's results are written.

A group starts the products of the next block's scores before those of this block's values, and computes the next
exponentials while the matrix units work. Blocks are taken from the last to the first: the first of them are the masked
ones, so that the long loop over whole blocks has no masks.

A block in shared memory is cut into halves of 64 numbers a token, the width of a swizzled row, and these into pages;
as one array it is what the matrix units expect of [BLOCK, HEAD_DIM].
"""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

LOG2_E = gl.constexpr(1.4426950408889634)
LOWEST = gl.constexpr(-1e30)
WIDTH = gl.constexpr(64)
"""Numbers of 16 bits in a swizzled row of shared memory."""
WARPS = gl.constexpr(4)
"""Of each group."""
# As triton 3.6 to 3.9 name them.
_load_box = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_barrier = getattr(gl, "barrier", None) or gl.thread_barrier
_viewed = getattr(gl.shared_memory_descriptor, "reinterpret", None) or gl.shared_memory_descriptor._reinterpret
"""An array in shared memory as one of another shape."""


@gluon.jit
def _item(
    turn,
    positions,
    tiles,
    num_tiles,
    HEADS: gl.constexpr,
    WINDOW: gl.constexpr,
    BLOCK: gl.constexpr,
    PACK: gl.constexpr,
):
    """This program's item of `turn`: (row, first token, its position, tokens, first head, first block, last block).

    No tokens: there is none. Later tiles have longer contexts and come first; every other turn the programs go through
    their items in the opposite order, so that who got the longest of a turn gets the shortest of the next.
    """
    programs = gl.num_programs(0)
    place = turn * programs + (gl.program_id(0) if turn % 2 == 0 else programs - 1 - gl.program_id(0))
    PIECES: gl.constexpr = PACK  # of a tile of 128 tokens, in pieces of 128 queries
    tile = num_tiles - 1 - place // (HEADS // PACK * PIECES)
    inside = place % (HEADS // PACK * PIECES)
    first_head, first = inside % (HEADS // PACK) * PACK, inside // (HEADS // PACK) * (128 // PACK)
    there = tile >= 0
    row = gl.load(tiles + tile * 3, mask=there, other=0)
    start = gl.load(tiles + tile * 3 + 1, mask=there, other=0)
    count = gl.load(tiles + tile * 3 + 2, mask=there, other=0)
    num_tokens = gl.minimum(gl.maximum(count - first, 0), 128 // PACK)
    first_position = gl.load(positions + start) + first
    end = first_position + num_tokens
    last_block = (end - 1) // BLOCK
    first_block = 0
    if WINDOW > 0:
        first_block = gl.maximum(first_position - WINDOW + 1, 0) // BLOCK
    return row, start + first, first_position, num_tokens, first_head, first_block, last_block


@gluon.jit
def _scores(products, places, positions, IS_MASKED: gl.constexpr, WINDOW: gl.constexpr, CAP: gl.constexpr):
    """Products as scores in units of `factor`: capped, and minus infinity where a query does not attend."""
    scores = products
    if CAP > 0:
        # tanh(x) = 1 - 2 / (exp(2 x) + 1)
        scores = 1.0 - 2.0 / (gl.exp2(products * (2.0 * LOG2_E * CAP)) + 1.0)
    if IS_MASKED:
        kept = places[None, :] <= positions[:, None]
        if WINDOW > 0:
            kept = kept & (places[None, :] > positions[:, None] - WINDOW)
        scores = gl.where(kept, scores, float("-inf"))
    return scores


@gluon.jit
def _fold(largest, total, scores, FACTOR: gl.constexpr):
    """(largest, total, exponentials, shrink): the running softmax with one more block of scores."""
    new_largest = gl.maximum(largest, gl.max(scores, 1) * FACTOR)
    exponentials = gl.exp2(scores * FACTOR - new_largest[:, None])
    shrink = gl.exp2(largest - new_largest)
    return new_largest, total * shrink + gl.sum(exponentials, 1), exponentials, shrink


@gluon.jit
def _next_blocks(
    start,
    end,
    taken,
    last_block,
    query,
    keys,
    values,
    bars,
    positions,
    largest,
    total,
    weighted,
    weights,
    IS_MASKED: gl.constexpr,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
    WINDOW: gl.constexpr,
    CAP: gl.constexpr,
    FACTOR: gl.constexpr,
    SCORES: gl.constexpr,
    OUT: gl.constexpr,
):
    """The running softmax after blocks `start` to `end`.

    `weights` are the last block's, whose values are there and not yet multiplied.
    `taken` are the blocks of the items before.
    """
    keys_full, keys_free, values_full, values_free = bars
    for index in range(start, end):
        at = taken + index
        slot, before = at % STAGES, (at - 1) % STAGES
        mbarrier.wait(keys_full.index(slot), (at // STAGES) & 1)
        nothing = gl.full([64, BLOCK], 0.0, gl.float32, SCORES)
        products = warpgroup_mma(query, keys.index(slot).permute((1, 0)), nothing, use_acc=False, is_async=True)
        weighted = warpgroup_mma(weights, values.index(before), weighted, is_async=True)
        products = warpgroup_mma_wait(1, deps=[products])
        _barrier()
        mbarrier.arrive(keys_free.index(slot), count=1)
        places = (last_block - index) * BLOCK + gl.arange(0, BLOCK, gl.SliceLayout(0, SCORES))
        scores = _scores(products, places, positions, IS_MASKED, WINDOW, CAP)
        largest, total, exponentials, shrink = _fold(largest, total, scores, FACTOR)
        # The branch of this wait keeps ptxas from moving the exponentials behind the end of the products.
        mbarrier.wait(values_full.index(slot), (at // STAGES) & 1)
        weighted = warpgroup_mma_wait(0, deps=[weighted])
        _barrier()
        mbarrier.arrive(values_free.index(before), count=1)
        weighted = weighted * gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None]
        weights = gl.convert_layout(exponentials.to(query.dtype), gl.DotOperandLayout(0, OUT, 2))
    return largest, total, weighted, weights


@gluon.jit
def _attend(
    half: gl.constexpr,
    query,
    queries,
    keys,
    values,
    bars,
    sinks,
    positions,
    tiles,
    num_tiles,
    turns,
    HEADS: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    WINDOW: gl.constexpr,
    CAP: gl.constexpr,
    FACTOR: gl.constexpr,
    BLOCK: gl.constexpr,
    PACK: gl.constexpr,
    STAGES: gl.constexpr,
    HAS_SINKS: gl.constexpr,
):
    """One group's 64 queries of each item, in place."""
    ROWS: gl.constexpr = gl.BlockedLayout([1, 8], [32 * 8 // HEAD_DIM, HEAD_DIM // 8], [WARPS, 1], [1, 0])
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, BLOCK, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, HEAD_DIM, 16])
    keys_full, keys_free, values_full, values_free = bars
    lines = half * 64 + gl.arange(0, 64, gl.SliceLayout(1, ROWS))
    dims = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, ROWS))
    mine = queries.index(half)
    taken = 0
    for turn in range(turns):
        _row, first_row, first_position, num_tokens, first_head, first_block, last_block = _item(
            turn, positions, tiles, num_tiles, HEADS, WINDOW, BLOCK, PACK
        )
        if num_tokens > 0:
            end = first_position + num_tokens
            rows = (first_row + lines // PACK).to(gl.int64) * HEADS + first_head + lines % PACK
            pointers = query + (rows * HEAD_DIM)[:, None] + dims[None, :]
            inside = ((lines // PACK) < num_tokens)[:, None] & (dims >= 0)[None, :]
            mine.store(gl.load(pointers, mask=inside, other=0.0))
            fence_async_shared()
            _barrier()

            # In the order they are taken, blocks are masked up to `masked_end`, whole up to `whole_end`, then masked.
            num_blocks = last_block + 1 - first_block
            first_whole = 0
            if WINDOW > 0:
                first_whole = (gl.maximum(end - WINDOW, 0) + BLOCK - 1) // BLOCK
            masked_end = gl.minimum(gl.maximum(last_block + 1 - (first_position + 1) // BLOCK, 1), num_blocks)
            whole_end = gl.maximum(last_block + 1 - gl.maximum(first_whole, first_block), masked_end)

            query_positions = first_position + (half * 64 + gl.arange(0, 64, gl.SliceLayout(1, SCORES))) // PACK
            slot = taken % STAGES
            mbarrier.wait(keys_full.index(slot), (taken // STAGES) & 1)
            nothing = gl.full([64, BLOCK], 0.0, gl.float32, SCORES)
            products = warpgroup_mma(mine, keys.index(slot).permute((1, 0)), nothing, use_acc=False, is_async=True)
            products = warpgroup_mma_wait(0, deps=[products])
            _barrier()
            mbarrier.arrive(keys_free.index(slot), count=1)
            places = last_block * BLOCK + gl.arange(0, BLOCK, gl.SliceLayout(0, SCORES))
            scores = _scores(products, places, query_positions, True, WINDOW, CAP)
            if HAS_SINKS:
                score_lines = half * 64 + gl.arange(0, 64, gl.SliceLayout(1, SCORES))
                largest = gl.load(sinks + first_head + score_lines % PACK).to(gl.float32) * LOG2_E
                total = gl.full([64], 1.0, gl.float32, gl.SliceLayout(1, SCORES))
            else:
                largest = gl.full([64], LOWEST, gl.float32, gl.SliceLayout(1, SCORES))
                total = gl.full([64], 0.0, gl.float32, gl.SliceLayout(1, SCORES))
            largest, total, exponentials, _shrink = _fold(largest, total, scores, FACTOR)
            weights = gl.convert_layout(exponentials.to(mine.dtype), gl.DotOperandLayout(0, OUT, 2))
            weighted = gl.full([64, HEAD_DIM], 0.0, gl.float32, OUT)
            mbarrier.wait(values_full.index(slot), (taken // STAGES) & 1)
            largest, total, weighted, weights = _next_blocks(
                1, masked_end, taken, last_block, mine, keys, values, bars, query_positions,
                largest, total, weighted, weights, True, BLOCK, STAGES, WINDOW, CAP, FACTOR, SCORES, OUT,
            )  # fmt: skip
            largest, total, weighted, weights = _next_blocks(
                masked_end, whole_end, taken, last_block, mine, keys, values, bars, query_positions,
                largest, total, weighted, weights, False, BLOCK, STAGES, WINDOW, CAP, FACTOR, SCORES, OUT,
            )  # fmt: skip
            if WINDOW > 0:
                largest, total, weighted, weights = _next_blocks(
                    whole_end, num_blocks, taken, last_block, mine, keys, values, bars, query_positions,
                    largest, total, weighted, weights, True, BLOCK, STAGES, WINDOW, CAP, FACTOR, SCORES, OUT,
                )  # fmt: skip
            taken += num_blocks
            slot = (taken - 1) % STAGES
            weighted = warpgroup_mma(weights, values.index(slot), weighted, is_async=True)
            weighted = warpgroup_mma_wait(0, deps=[weighted])
            _barrier()
            mbarrier.arrive(values_free.index(slot), count=1)
            attended = weighted / gl.convert_layout(gl.maximum(total, 1e-30), gl.SliceLayout(1, OUT))[:, None]
            # Through shared memory, so that whole rows are written.
            mine.store(attended.to(mine.dtype))
            _barrier()
            gl.store(pointers, mine.load(ROWS), mask=inside)
            _barrier()


@gluon.jit
def _bring(
    keys_pages,
    values_pages,
    keys,
    values,
    bars,
    tables,
    positions,
    tiles,
    num_tiles,
    turns,
    HEADS: gl.constexpr,
    GROUP: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    TABLE_PAGES: gl.constexpr,
    PAGE_SIZE: gl.constexpr,
    WINDOW: gl.constexpr,
    BLOCK: gl.constexpr,
    PACK: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Keeps the blocks coming, from the last to the first of each item."""
    HALVES: gl.constexpr = HEAD_DIM // WIDTH
    PAGES: gl.constexpr = BLOCK // PAGE_SIZE
    BYTES: gl.constexpr = BLOCK * HEAD_DIM * 2
    ROWS: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [1, 1], [1, 0])
    PAGE: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    sixteens = _viewed(values, values.dtype, [STAGES * HALVES * BLOCK // 16, 16, WIDTH], PAGE)
    keys_full, keys_free, values_full, values_free = bars
    taken = 0
    landings = 0
    for turn in range(turns):
        row, _first_row, first_position, num_tokens, first_head, first_block, last_block = _item(
            turn, positions, tiles, num_tiles, HEADS, WINDOW, BLOCK, PACK
        )
        if num_tokens > 0:
            end = first_position + num_tokens
            last_page = (end - 1) // PAGE_SIZE
            table = tables + row * TABLE_PAGES
            column = first_head // GROUP * HEAD_DIM
            for index in range(last_block + 1 - first_block):
                at = taken + index
                slot = at % STAGES
                is_free = (at // STAGES + 1) & 1
                first_page = (last_block - index) * PAGES
                # Past the end the last page comes again, so that what is there is the request's own.
                ids = gl.tuple([])
                for page in gl.static_range(PAGES):
                    ids += (gl.load(table + gl.minimum(first_page + page, last_page)),)
                mbarrier.wait(keys_free.index(slot), is_free, pred=at >= STAGES)
                bar = keys_full.index(slot)
                mbarrier.expect(bar, BYTES)
                for half in gl.static_range(HALVES):
                    for page in gl.static_range(PAGES):
                        place = keys.index((slot * HALVES + half) * PAGES + page)
                        _load_box(keys_pages, [ids[page] * PAGE_SIZE, column + half * WIDTH], bar, place)
                mbarrier.wait(values_free.index(slot), is_free, pred=at >= STAGES)
                # The last page may hold another request's remains past the end: zeros for them, before anyone reads.
                is_ragged = (index == 0) & (end % PAGE_SIZE != 0)
                bar = values_full.index(gl.where(is_ragged, STAGES, slot))
                mbarrier.expect(bar, BYTES)
                for half in gl.static_range(HALVES):
                    for page in gl.static_range(PAGES):
                        place = values.index((slot * HALVES + half) * PAGES + page)
                        _load_box(values_pages, [ids[page] * PAGE_SIZE, column + half * WIDTH], bar, place)
                if is_ragged:
                    mbarrier.wait(values_full.index(STAGES), landings & 1)
                    landings += 1
                    present = end - last_block * BLOCK - gl.arange(0, 16, gl.SliceLayout(1, ROWS))
                    for half in gl.static_range(HALVES):
                        for part in gl.static_range(BLOCK // 16):
                            if last_block * BLOCK + part * 16 + 16 > end:
                                sixteen = sixteens.index((slot * HALVES + half) * (BLOCK // 16) + part)
                                entries = sixteen.load(ROWS)
                                nothing = gl.full_like(entries, 0.0)
                                sixteen.store(gl.where(present[:, None] > part * 16, entries, nothing))
                    fence_async_shared()
                    _barrier()
                    mbarrier.arrive(values_full.index(slot), count=1)
            taken += last_block + 1 - first_block


@gluon.jit
def chunk_hopper_kernel(
    query,  # [tokens, kv_heads, group, head_dim]; overwritten with what the queries attend to
    keys_pages,  # [pages * page_size, kv_heads * head_dim], in boxes of [page_size, 64]
    values_pages,
    sinks,  # [kv_heads, group]
    positions,
    tables,
    tiles,  # [tiles, 3]: row, first token, tokens
    num_tiles,
    KV_HEADS: gl.constexpr,
    GROUP: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    PAGE_SIZE: gl.constexpr,
    TABLE_PAGES: gl.constexpr,
    WINDOW: gl.constexpr,
    SCALE: gl.constexpr,
    SOFT_CAP: gl.constexpr,
    HAS_SINKS: gl.constexpr,
    PACK: gl.constexpr,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
):
    HALVES: gl.constexpr = HEAD_DIM // WIDTH
    PAGES: gl.constexpr = BLOCK // PAGE_SIZE
    HEADS: gl.constexpr = KV_HEADS * GROUP
    CAP: gl.constexpr = SCALE / SOFT_CAP if SOFT_CAP > 0 else 0.0
    FACTOR: gl.constexpr = (SOFT_CAP if SOFT_CAP > 0 else SCALE) * LOG2_E
    PAGE: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    dtype: gl.constexpr = query.dtype.element_ty
    queries = gl.allocate_shared_memory(dtype, [2, 64, HEAD_DIM], PAGE)
    keys = gl.allocate_shared_memory(dtype, [STAGES * HALVES * PAGES, PAGE_SIZE, WIDTH], PAGE)
    values = gl.allocate_shared_memory(dtype, [STAGES * HALVES * PAGES, PAGE_SIZE, WIDTH], PAGE)
    key_blocks = _viewed(keys, dtype, [STAGES, BLOCK, HEAD_DIM], PAGE)
    value_blocks = _viewed(values, dtype, [STAGES, BLOCK, HEAD_DIM], PAGE)
    keys_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    keys_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    # The last is for values that are not ready for the others when they arrive.
    values_full = gl.allocate_shared_memory(gl.int64, [STAGES + 1, 1], mbarrier.MBarrierLayout())
    values_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(STAGES):
        mbarrier.init(keys_full.index(slot), count=1)
        mbarrier.init(keys_free.index(slot), count=2)
        mbarrier.init(values_full.index(slot), count=1)
        mbarrier.init(values_free.index(slot), count=2)
    mbarrier.init(values_full.index(STAGES), count=1)
    fence_async_shared()
    bars = (keys_full, keys_free, values_full, values_free)
    tile_count = gl.load(num_tiles)
    turns = (tile_count * HEADS + gl.num_programs(0) - 1) // gl.num_programs(0)
    gl.warp_specialize(
        [
            (
                _attend,
                (
                    0, query, queries, key_blocks, value_blocks, bars, sinks, positions, tiles, tile_count, turns,
                    HEADS, HEAD_DIM, WINDOW, CAP, FACTOR, BLOCK, PACK, STAGES, HAS_SINKS,
                ),
            ),
            (
                _attend,
                (
                    1, query, queries, key_blocks, value_blocks, bars, sinks, positions, tiles, tile_count, turns,
                    HEADS, HEAD_DIM, WINDOW, CAP, FACTOR, BLOCK, PACK, STAGES, HAS_SINKS,
                ),
            ),
            (
                _bring,
                (
                    keys_pages, values_pages, keys, values, bars, tables, positions, tiles, tile_count, turns,
                    HEADS, GROUP, HEAD_DIM, TABLE_PAGES, PAGE_SIZE, WINDOW, BLOCK, PACK, STAGES,
                ),
            ),
        ],
        [WARPS, 1],
        [232, 40],
    )  # fmt: skip
