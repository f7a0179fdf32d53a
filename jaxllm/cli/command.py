"""typer commands that take vLLM's spellings of flags, `--config` files, and the model without its flag."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from typer.core import TyperCommand

from jaxllm.cli.arguments import Flag, GivenArguments, read_arguments
from jaxllm.cli.options import JSON_METAVAR, OTHER_ENGINE_ARGUMENTS
from jaxllm.errors import ValidationError

SHORT_ENGINE_FLAGS = {
    "pipeline_parallel_size": "-pp",
    "data_parallel_size": "-dp",
    "enable_expert_parallel": "-ep",
    "quantization": "-q",
    "compilation_config": "-cc",
    "attention_config": "-ac",
    "speculative_config": "-sc",
    "nnodes": "-n",
    "node_rank": "-r",
}
"""vLLM's short names of engine arguments that jaxllm knows but doesn't apply."""


class FlexibleCommand(TyperCommand):
    """A command whose arguments are rewritten (`jaxllm.cli.arguments`) before typer sees them."""

    positional: ClassVar[str | None] = None
    """The parameter that one positional argument sets, if any."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for keyword in [arg.removeprefix("--help=") for arg in args if arg.startswith("--help=")]:
            self._print_help_on(ctx, keyword)
        try:
            args = self._rewritten(args)
        except ValidationError as error:
            ctx.fail(str(error))
        return super().parse_args(ctx, args)

    def _print_help_on(self, ctx: Any, keyword: str) -> None:
        """Prints the flags with a word in their names (all flags for "all"), and ends the command."""
        word = keyword.replace("_", "-").lower()
        shown = [param for param in self.params if word == "all" or any(word in option for option in param.opts)]
        records = [record for param in shown if (record := param.get_help_record(ctx)) is not None]
        if not records:
            ctx.fail(f"no flag has {keyword!r} in its name")
        formatter = ctx.make_formatter()
        formatter.write_dl(records)
        print(formatter.getvalue(), end="")
        ctx.exit()

    def _rewritten(self, args: list[str]) -> list[str]:
        flags = [_as_flag(param) for param in self.params if param.param_type_name == "option"]
        given = read_arguments(args, flags)
        has_unknown = any(token.startswith("-") for token in given.rest)
        if OTHER_ENGINE_ARGUMENTS in {flag.name for flag in flags} and (has_unknown or "config" in given.values):
            flags += _other_engine_flags(flags)
            given = read_arguments(args, flags)
        self._take_positional(given)
        for path in given.values.get("config", [])[-1:]:
            from jaxllm.cli.config_file import add_config_file

            add_config_file(given, path, flags)
        return given.as_command_line(flags)

    def _take_positional(self, given: GivenArguments) -> None:
        rest = given.rest[1:] if given.rest[:1] == ["--"] else given.rest
        if self.positional is None or len(rest) != 1 or rest[0].startswith("-"):
            return
        [value] = rest
        others = {other for other in given.values.get(self.positional, []) if other != value}
        if others:
            raise ValidationError(
                f"{self.positional} is given twice: {value!r} and --{self.positional} {others.pop()!r}",
                parameter=self.positional,
            )
        given.values[self.positional] = [value]
        given.rest = []


class ModelCommand(FlexibleCommand):
    """A command that takes `MODEL` as well as `--model MODEL`."""

    positional = "model"


def _as_flag(param: Any) -> Flag:
    """What the rewriting must know of a typer option."""
    kind: Literal["value", "values", "switch", "mapping"] = "value"
    if param.is_flag:
        kind = "switch"
    elif param.metavar == JSON_METAVAR:
        kind = "mapping"
    elif param.multiple:
        kind = "values"
    long_first = sorted(param.opts, key=lambda spelling: not spelling.startswith("--"))
    return Flag(name=param.name, spellings=tuple(long_first), negations=tuple(param.secondary_opts), kind=kind)


def _other_engine_flags(flags: list[Flag]) -> list[Flag]:
    """Flags of vLLM's engine arguments that jaxllm accepts at harmless values only, and refuses by name otherwise.

    Imported late: the module behind it needs numpy, which most command lines don't.
    """
    from jaxllm.engine_args import HARMLESS_VALUES, LEGACY_NAMES

    taken = {spelling for flag in flags for spelling in (*flag.spellings, *flag.negations)}
    known = {**HARMLESS_VALUES, **dict.fromkeys(LEGACY_NAMES, (None,)), "task": ("auto",)}
    result = []
    for name, harmless in known.items():
        long = f"--{name.replace('_', '-')}"
        short = SHORT_ENGINE_FLAGS.get(name)
        is_switch = any(isinstance(value, bool) for value in harmless)
        result.append(
            Flag(
                name=OTHER_ENGINE_ARGUMENTS,
                spellings=tuple(text for text in (long, short) if text is not None and text not in taken),
                negations=(f"--no-{long[2:]}",) if is_switch else (),
                kind="switch" if is_switch else "value",
                key=name,
            )
        )
    return [flag for flag in result if flag.spellings]
