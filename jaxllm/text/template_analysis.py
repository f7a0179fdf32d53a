"""What a chat template reads, found in its syntax tree."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import Environment, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from jaxllm.errors import ValidationError
from jaxllm.text.chat_messages import ContentFormat


class _GenerationBlock(Extension):
    """Reads `{% generation %}`, which training tools use to mark the assistant's turn, as its contents."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=64)
def find_variables(template: str) -> frozenset[str]:
    """Names that the template takes from outside."""
    return frozenset(meta.find_undeclared_variables(_parse(template)))


@lru_cache(maxsize=64)
def detect_content_format(template: str) -> ContentFormat:
    """ "openai" if the template loops over the parts of a message's content, "string" if it takes it as a string."""
    tree = _parse(template)
    names = _follow_names(tree)
    for loop in tree.find_all(nodes.For):
        if names.is_content(loop.iter):
            return "openai"
    return "string"


@lru_cache(maxsize=64)
def takes_both_formats(template: str) -> bool:
    """Whether the template asks if a message's content is a string, so that strings may stay strings."""
    tree = _parse(template)
    names = _follow_names(tree)
    return any(test.name == "string" and names.is_content(test.node) for test in tree.find_all(nodes.Test))


def _parse(template: str) -> nodes.Template:
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock], autoescape=False
    )
    try:
        return environment.parse(template)
    except TemplateSyntaxError as error:
        raise ValidationError(
            f"the chat template is not valid Jinja (line {error.lineno}): {error.message}", parameter="chat_template"
        ) from error


class _Names:
    """Variables that may hold the list of messages, one message, or a message's content."""

    def __init__(self) -> None:
        self.lists = {"messages"}
        self.messages: set[str] = set()
        self.contents: set[str] = set()

    @property
    def num_names(self) -> int:
        return len(self.lists) + len(self.messages) + len(self.contents)

    def is_list(self, node: nodes.Node) -> bool:
        """The messages or a part of them."""
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            return self.is_list(node.node)
        return _key_of(_unwrap(node)) in self.lists

    def is_message(self, node: nodes.Node) -> bool:
        node = _unwrap(node)
        if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice):
            return self.is_list(node.node)
        return _key_of(node) in self.messages

    def is_content(self, node: nodes.Node) -> bool:
        node = _unwrap(node)
        if isinstance(node, nodes.Getattr) and node.attr == "content":
            return self.is_message(node.node)
        if isinstance(node, nodes.Getitem) and _is_constant(node.arg, "content"):
            return self.is_message(node.node)
        if (receiver := _receiver_of_get_content(node)) is not None:
            return self.is_message(receiver)
        if isinstance(node, nodes.CondExpr):
            return self.is_content(node.expr1) or (node.expr2 is not None and self.is_content(node.expr2))
        return _key_of(node) in self.contents

    def bind(self, key: str, value: nodes.Node) -> None:
        """Notes that the variable `key` may hold `value`."""
        if self.is_list(value):
            self.lists.add(key)
        if self.is_message(value):
            self.messages.add(key)
        if self.is_content(value):
            self.contents.add(key)


def _follow_names(tree: nodes.Template) -> _Names:
    """Follows assignments, loops and macro calls until nothing new turns up."""
    names = _Names()
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    while True:
        num_names = names.num_names
        for loop in tree.find_all(nodes.For):
            if names.is_list(loop.iter) and (key := _key_of(loop.target)):
                names.messages.add(key)
        for assignment in tree.find_all(nodes.Assign):
            if key := _key_of(assignment.target):
                names.bind(key, assignment.node)
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in macros:
                _bind_arguments(names, macros[call.node.name], call)
        if names.num_names == num_names:
            return names


def _bind_arguments(names: _Names, macro: nodes.Macro, call: nodes.Call) -> None:
    for parameter, value in zip(macro.args, call.args, strict=False):
        names.bind(parameter.name, value)
    for keyword in call.kwargs:
        names.bind(keyword.key, keyword.value)


def _unwrap(node: nodes.Node) -> nodes.Node:
    """What a filter or an alternative such as `x or []` starts from."""
    while True:
        if isinstance(node, nodes.Filter) and node.node is not None:
            node = node.node
        elif isinstance(node, nodes.Or):
            node = node.left
        else:
            return node


def _key_of(node: nodes.Node) -> str | None:
    """A variable's name; a namespace's field counts as a variable."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return None


def _receiver_of_get_content(node: nodes.Node) -> nodes.Node | None:
    """The `message` of `message.get("content")`."""
    if not isinstance(node, nodes.Call) or not node.args or not _is_constant(node.args[0], "content"):
        return None
    method = node.node
    return method.node if isinstance(method, nodes.Getattr) and method.attr == "get" else None


def _is_constant(node: nodes.Node, value: str) -> bool:
    return isinstance(node, nodes.Const) and node.value == value
