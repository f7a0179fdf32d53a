"""Gluon kernel of prompt chunks for Hopper, after FlashAttention-3 (Shah et al. 2024).

chunk_hopper_kernel  grid (programs,): each program takes its share of the items, an item being a piece of a tile for
                     PACK heads of a group, as a program of `chunk_kernel` is. For heads of 64 or 128 in 16 bits.
                     Two groups of four warps attend, each for half of the queries; a third brings blocks of keys and
                     values from the pages with the tensor memory accelerator, page by page, STAGES blocks ahead, the
                     next item's while the last one's results are written.
"""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from jaxllm.pallas_kernels.paged_attention.hopper_attend import LOG2_E, attend
from jaxllm.pallas_kernels.paged_attention.hopper_bring import bring
from jaxllm.pallas_kernels.paged_attention.hopper_shared import WARPS, WIDTH, viewed


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
    key_blocks = viewed(keys, dtype, [STAGES, BLOCK, HEAD_DIM], PAGE)
    value_blocks = viewed(values, dtype, [STAGES, BLOCK, HEAD_DIM], PAGE)
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
                attend,
                (
                    0, query, queries, key_blocks, value_blocks, bars, sinks, positions, tiles, tile_count, turns,
                    HEADS, HEAD_DIM, WINDOW, CAP, FACTOR, BLOCK, PACK, STAGES, HAS_SINKS,
                ),
            ),
            (
                attend,
                (
                    1, query, queries, key_blocks, value_blocks, bars, sinks, positions, tiles, tile_count, turns,
                    HEADS, HEAD_DIM, WINDOW, CAP, FACTOR, BLOCK, PACK, STAGES, HAS_SINKS,
                ),
            ),
            (
                bring,
                (
                    keys_pages, values_pages, keys, values, bars, tables, positions, tiles, tile_count, turns,
                    HEADS, GROUP, HEAD_DIM, TABLE_PAGES, PAGE_SIZE, WINDOW, BLOCK, PACK, STAGES,
                ),
            ),
        ],
        [WARPS, 1],
        [232, 40],
    )  # fmt: skip
