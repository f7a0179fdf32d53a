"""The group of warps of the Hopper kernel that brings keys and values.

A block in shared memory is cut into halves of 64 numbers a token, the width of a swizzled row, and these into pages;
as one array it is what the matrix units expect of [BLOCK, HEAD_DIM].
"""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from jaxllm.pallas_kernels.paged_attention.hopper_shared import WIDTH, barrier, item, load_box, viewed


@gluon.jit
def bring(
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
    sixteens = viewed(values, values.dtype, [STAGES * HALVES * BLOCK // 16, 16, WIDTH], PAGE)
    keys_full, keys_free, values_full, values_free = bars
    taken = 0
    landings = 0
    for turn in range(turns):
        row, _first_row, first_position, num_tokens, first_head, first_block, last_block = item(
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
                        load_box(keys_pages, [ids[page] * PAGE_SIZE, column + half * WIDTH], bar, place)
                mbarrier.wait(values_free.index(slot), is_free, pred=at >= STAGES)
                # The last page may hold another request's remains past the end: zeros for them, before anyone reads.
                is_ragged = (index == 0) & (end % PAGE_SIZE != 0)
                bar = values_full.index(gl.where(is_ragged, STAGES, slot))
                mbarrier.expect(bar, BYTES)
                for half in gl.static_range(HALVES):
                    for page in gl.static_range(PAGES):
                        place = values.index((slot * HALVES + half) * PAGES + page)
                        load_box(values_pages, [ids[page] * PAGE_SIZE, column + half * WIDTH], bar, place)
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
                    barrier()
                    mbarrier.arrive(values_full.index(slot), count=1)
            taken += last_block + 1 - first_block
