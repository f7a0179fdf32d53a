import pytest

from tests.references.beam_reference import load_beam_reference
from tests.references.reference import DATA_DIRECTORY, load_reference, reference_names, tiny_reference_names
from tests.references.variants import VARIANTS


def test_every_variant_has_a_committed_model_directory() -> None:
    assert tiny_reference_names() == sorted(variant.name for variant in VARIANTS)


def test_lists_the_variants_of_one_family() -> None:
    assert tiny_reference_names("gemma3") == ["gemma3_linear_global", "gemma3_two_bases"]


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"no reference named 'gpt_2', there are .*llama_gqa"):
        load_reference("gpt_2")


@pytest.mark.parametrize("name", reference_names())
def test_cases_are_whole_and_firm(name: str) -> None:
    for case in load_reference(name).cases:
        assert len(case.output_token_ids) == len(case.output_logprobs) == len(case.margins)
        assert case.minimum_margin > 2e-4
        assert case.first_top[0][0] == case.output_token_ids[0]
        if case.prompt_logprobs is not None:
            assert len(case.prompt_logprobs) == len(case.token_ids) - 1


def test_beam_searches_are_whole_and_sorted() -> None:
    reference = load_beam_reference("smollm2-135m")
    assert len(reference.cases) == 20
    for case in reference.cases:
        assert {width: len(beams) for width, beams in case.beams.items()} == {2: 2, 4: 4, 8: 8}
        for beams in case.beams.values():
            assert {len(tokens) for tokens, _ in beams} == {reference.num_tokens}
            assert [score for _, score in beams] == sorted((score for _, score in beams), reverse=True)
    for search in reference.eos_cases:
        assert any(tokens[-1] in reference.eos_token_ids for tokens, _ in search.beams)


def test_committed_data_stays_small() -> None:
    assert sum(path.stat().st_size for path in DATA_DIRECTORY.rglob("*") if path.is_file()) < 6_000_000
