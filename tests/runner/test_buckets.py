import pytest

from jaxllm.runner.buckets import bucket_ladder, smallest
from jaxllm.runner.layout import Bucket

CPU = bucket_ladder("cpu", 32, 512)


def names(buckets: list[Bucket]) -> list[str]:
    return [bucket.name for bucket in buckets]


def test_the_cpu_gets_few_programs() -> None:
    assert names(CPU) == ["decode_1x1", "decode_8x8", "decode_32x32", "mixed_64x32", "mixed_512x32"]


def test_a_gpu_gets_a_fine_ladder() -> None:
    ladder = bucket_ladder("gpu", 512, 8192)
    rows = [1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512]
    mixed = ["mixed_128x128", "mixed_256x256", *(f"mixed_{n}x512" for n in (512, 1024, 2048, 4096, 8192))]
    assert names(ladder) == [f"decode_{n}x{n}" for n in rows] + mixed


def test_the_top_of_the_ladder_is_rounded_up_to_hold_the_limits() -> None:
    assert names(bucket_ladder("gpu", 5, 200)) == [
        "decode_1x1",
        "decode_2x2",
        "decode_4x4",
        "decode_5x5",
        "mixed_128x5",
        "mixed_224x5",
    ]
    assert names(bucket_ladder("cpu", 37, 700))[2:] == ["decode_32x32", "decode_40x40", *names_of_mixed(40)]


def names_of_mixed(rows: int) -> list[str]:
    return [f"mixed_{tokens}x{rows}" for tokens in (64, 512, 704)]


def test_limits_below_the_ladder_get_its_lowest_rungs() -> None:
    assert names(bucket_ladder("cpu", 1, 1)) == ["decode_1x1", "mixed_64x1"]


@pytest.mark.parametrize(
    ("num_tokens", "num_rows", "has_chunks", "expected"),
    [
        (1, 1, False, "decode_1x1"),
        (8, 8, False, "decode_8x8"),
        (9, 9, False, "decode_32x32"),
        (2, 1, True, "mixed_64x32"),
        (64, 32, True, "mixed_64x32"),
        (65, 2, True, "mixed_512x32"),
    ],
)
def test_a_step_takes_the_smallest_program_that_holds_it(
    num_tokens: int, num_rows: int, has_chunks: bool, expected: str
) -> None:
    assert smallest(CPU, num_tokens=num_tokens, num_rows=num_rows, has_chunks=has_chunks).name == expected


def test_a_step_beyond_the_limits_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="no program holds 513 tokens of 2 requests"):
        smallest(CPU, num_tokens=513, num_rows=2, has_chunks=True)
