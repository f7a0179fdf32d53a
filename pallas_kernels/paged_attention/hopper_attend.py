"""The groups of warps of the Hopper kernel that attend.

A group starts the products of the next block's scores before those of this block's values, and computes the next
exponentials while the matrix units work. Blocks are taken from the last to the first: the first of them are the masked
ones, so that the long loop over whole blocks has no masks.
"""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from jaxllm.pallas_kernels.paged_attention.hopper_shared import WARPS, barrier, item

LOG2_E = gl.constexpr(1.4426950408889634)
LOWEST = gl.constexpr(-1e30)


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
        barrier()
        mbarrier.arrive(keys_free.index(slot), count=1)
        places = (last_block - index) * BLOCK + gl.arange(0, BLOCK, gl.SliceLayout(0, SCORES))
        scores = _scores(products, places, positions, IS_MASKED, WINDOW, CAP)
        largest, total, exponentials, shrink = _fold(largest, total, scores, FACTOR)
        # The branch of this wait keeps ptxas from moving the exponentials behind the end of the products.
        mbarrier.wait(values_full.index(slot), (at // STAGES) & 1)
        weighted = warpgroup_mma_wait(0, deps=[weighted])
        barrier()
        mbarrier.arrive(values_free.index(before), count=1)
        weighted = weighted * gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None]
        weights = gl.convert_layout(exponentials.to(query.dtype), gl.DotOperandLayout(0, OUT, 2))
    return largest, total, weighted, weights


@gluon.jit
def attend(
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
        _row, first_row, first_position, num_tokens, first_head, first_block, last_block = item(
            turn, positions, tiles, num_tiles, HEADS, WINDOW, BLOCK, PACK
        )
        if num_tokens > 0:
            end = first_position + num_tokens
            rows = (first_row + lines // PACK).to(gl.int64) * HEADS + first_head + lines % PACK
            pointers = query + (rows * HEAD_DIM)[:, None] + dims[None, :]
            inside = ((lines // PACK) < num_tokens)[:, None] & (dims >= 0)[None, :]
            mine.store(gl.load(pointers, mask=inside, other=0.0))
            fence_async_shared()
            barrier()

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
            barrier()
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
            barrier()
            mbarrier.arrive(values_free.index(slot), count=1)
            attended = weighted / gl.convert_layout(gl.maximum(total, 1e-30), gl.SliceLayout(1, OUT))[:, None]
            # Through shared memory, so that whole rows are written.
            mine.store(attended.to(mine.dtype))
            barrier()
            gl.store(pointers, mine.load(ROWS), mask=inside)
            barrier()
