"""Adding up the parts of a context that several programs attended to, after Flash-Decoding (Dao et al. 2023).

The items of a row are added up by the one that ends last: `counters` holds how many are through, zero before and after
every call, so that all calls of a program share one array of zeros.
"""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
import triton
import triton.language as tl

from jaxllm.pallas_kernels.paged_attention.triton_softmax import MASKED


@triton.jit
def finish(
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
