"""What the groups of warps of the Hopper kernel share: arrays in shared memory, and how items are shared out."""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

WIDTH = gl.constexpr(64)
"""Numbers of 16 bits in a swizzled row of shared memory."""
WARPS = gl.constexpr(4)
"""Of each group that attends."""
# As triton 3.6 to 3.9 name them.
load_box = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier
viewed = getattr(gl.shared_memory_descriptor, "reinterpret", None) or gl.shared_memory_descriptor._reinterpret
"""An array in shared memory as one of another shape."""


@gluon.jit
def item(
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
