import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.pallas_kernels.paged_attention.schedule import NO_ROW, SPLIT_BITS, DecodeGrid, decode_items


def items(grid: DecodeGrid, ends: list[int], firsts: list[int] | None = None) -> list[tuple[int, int, int, int, int]]:
    """(row, start, end, split, splits) of the items in use; rows without an end are padding."""
    end = np.array(ends, np.int32)
    first = np.zeros_like(end) if firsts is None else np.array(firsts, np.int32)
    found = decode_items(grid, first=jnp.asarray(first), end=jnp.asarray(end), is_row=jnp.asarray(end >= 0))
    rows = np.asarray(found).tolist()
    assert len(rows) == grid.max_items
    return [(*row[:3], row[3] & (1 << SPLIT_BITS) - 1, row[3] >> SPLIT_BITS) for row in rows if row[0] != NO_ROW]


def make_grid(rows: int, *, programs: int = 8, min_blocks: int = 1, max_context: int = 1024) -> DecodeGrid:
    return DecodeGrid.of(
        rows=rows, max_context=max_context, kv_heads=2, block=16, programs=programs, min_blocks=min_blocks
    )


def test_short_contexts_are_not_cut() -> None:
    assert items(make_grid(3, min_blocks=4), [0, 64, 17]) == [(0, 0, 0, 0, 1), (1, 0, 64, 0, 1), (2, 0, 17, 0, 1)]


def test_one_long_context_is_shared_by_all_programs() -> None:
    assert items(make_grid(1), [1000]) == [
        (0, 0, 256, 0, 4),
        (0, 256, 512, 1, 4),
        (0, 512, 768, 2, 4),
        (0, 768, 1000, 3, 4),
    ]


def test_a_long_context_gets_its_share_among_short_ones() -> None:
    assert items(make_grid(3), [16, 300, 16]) == [
        (0, 0, 16, 0, 1),
        (1, 0, 80, 0, 4),
        (1, 80, 160, 1, 4),
        (1, 160, 240, 2, 4),
        (1, 240, 300, 3, 4),
        (2, 0, 16, 0, 1),
    ]


def test_rows_of_padding_have_no_items() -> None:
    assert items(make_grid(3, min_blocks=64), [5, -1, -1]) == [(0, 0, 5, 0, 1)]


def test_a_window_starts_at_its_block() -> None:
    assert items(make_grid(1, min_blocks=64), [100], [50]) == [(0, 48, 100, 0, 1)]


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_items_cover_random_contexts_and_fit_the_grid(rows: int) -> None:
    rng = np.random.default_rng(rows)
    for programs in (1, 2, 9, 64):
        grid = make_grid(rows, programs=programs)
        ends = rng.integers(0, 1025, rows).tolist()
        found = items(grid, ends)
        assert max(splits for *_, splits in found) <= grid.max_splits
        for row, end in enumerate(ends):
            mine = [item for item in found if item[0] == row]
            covered = [place for _, start, stop, _, _ in mine for place in range(start, stop)]
            assert covered == list(range(end))
            assert [split for *_, split, _ in mine] == list(range(len(mine)))
            assert {splits for *_, splits in mine} == {len(mine)}
