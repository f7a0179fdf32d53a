import pytest

from jaxllm.errors import ValidationError
from jaxllm.text.template_analysis import detect_content_format, find_variables, takes_both_formats

PRINTS = "{% for message in messages %}{{ message.content }}{% endfor %}"
LOOPS = "{% for message in messages %}{% for part in message['content'] %}{{ part.text }}{% endfor %}{% endfor %}"
SLICED = (
    "{% set rest = messages[1:] %}{% for m in rest %}{% set c = m.content | default([]) %}"
    "{% for part in c %}{{ part }}{% endfor %}{% endfor %}"
)
FIRST = "{% for part in messages[0]['content'] | selectattr('type') %}{{ part }}{% endfor %}"
MACRO = (
    "{% macro show(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}{{ part }}"
    "{% endfor %}{% endif %}{% endmacro %}{% for message in messages %}{{ show(message.get('content')) }}{% endfor %}"
)
NAMESPACE = (
    "{% set ns = namespace(found=messages) %}{% set ns.found = messages[2:] %}{% for m in ns.found %}"
    "{% for part in (m.content if m.content else []) %}{{ part }}{% endfor %}{% endfor %}"
)
OTHER_LOOPS = (
    "{% for message in messages %}{% for call in message.tool_calls %}{{ call.content }}{% endfor %}"
    "{{ message.content }}{% endfor %}{% for content in tools %}{{ content }}{% endfor %}"
)
MARKED = "{% for message in messages %}{% generation %}{{ message.content }}{% endgeneration %}{% break %}{% endfor %}"


@pytest.mark.parametrize("template", [PRINTS, OTHER_LOOPS, MARKED, "no jinja"])
def test_a_printed_content_is_a_string(template: str) -> None:
    assert detect_content_format(template) == "string"


@pytest.mark.parametrize("template", [LOOPS, SLICED, FIRST, MACRO, NAMESPACE])
def test_a_content_looped_over_is_a_list_of_parts(template: str) -> None:
    assert detect_content_format(template) == "openai"


def test_a_template_that_asks_for_strings_takes_both() -> None:
    assert takes_both_formats(MACRO)
    assert not takes_both_formats(LOOPS)


def test_variables_from_outside_are_found() -> None:
    assert find_variables("{% set a = 1 %}{{ a }}{{ enable_thinking }}{% if tools %}{% endif %}") == {
        "enable_thinking",
        "tools",
    }


def test_a_template_that_does_not_parse_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"the chat template is not valid Jinja \(line 2\)"):
        detect_content_format("\n{% for %}")
