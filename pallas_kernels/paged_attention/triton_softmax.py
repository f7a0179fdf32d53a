"""What the Triton kernels of paged attention share: blocks of the cache and the running softmax over them.

Running softmax after Dao et al. 2022, float32 sums. A block is gathered token by token through the page table, so that
any page size serves. Scores are in units of log 2. A sink is a score whose value is zero: the softmax begins with it.
Compile-time constants are in capitals, here and in the kernels: WINDOW and SOFT_CAP are 0 where there is none; GROUP
and HEAD_DIM are padded to GROUP_BLOCK and DIM_BLOCK, powers of two of at least 16, the least that the matrix units
take, MEMBERS is GROUP padded to any power of two.
"""

# triton is there on GPUs only, and its decorator has no types.
# mypy: disable-error-code="import-not-found,untyped-decorator,no-untyped-def"
# pyright: reportMissingImports=false
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
MASKED = tl.constexpr(-1e30)


@triton.jit
def pages_of(table, places, end, PAGE_SIZE: tl.constexpr):
    """The pages of the context's `places`, those before `end`. Asked for a block ahead, their latency is hidden."""
    return tl.load(table + places // PAGE_SIZE, mask=places < end, other=0)


@triton.jit
def load_block(
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
def capped(products, SCALE: tl.constexpr, SOFT_CAP: tl.constexpr):
    """Scores in units of log 2 / _factor: the products themselves where there is no cap."""
    if SOFT_CAP > 0:
        # tanh(x) = 1 - 2 / (exp(2 x) + 1)
        grown = tl.exp2(products * (2.0 * SCALE * LOG2_E / SOFT_CAP))
        return 1.0 - 2.0 / (grown + 1.0)
    return products


@triton.jit
def score_factor(SCALE: tl.constexpr, SOFT_CAP: tl.constexpr):
    if SOFT_CAP > 0:
        return SOFT_CAP * LOG2_E
    return SCALE * LOG2_E


@triton.jit
def fold(
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
    scores = capped(tl.dot(query, tl.trans(keys), input_precision=PRECISION), SCALE, SOFT_CAP)
    if IS_MASKED:
        scores = tl.where(kept, scores, MASKED)
    factor = score_factor(SCALE, SOFT_CAP)
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
def start_softmax(sinks, kept, SIZE: tl.constexpr, HAS_SINKS: tl.constexpr):
    """(largest, total) of the running softmax before the first block; `sinks` are pointers, read where `kept`."""
    largest = tl.full([SIZE], MASKED, tl.float32)
    total = tl.zeros([SIZE], tl.float32)
    if HAS_SINKS:
        largest = tl.where(kept, tl.load(sinks, mask=kept, other=0.0).to(tl.float32) * LOG2_E, largest)
        total = tl.where(kept, 1.0, total)
    return largest, total
