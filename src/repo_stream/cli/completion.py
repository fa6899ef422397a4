"""Completion of the command line in bash, zsh and fish: scripts made from its own parser.

What an option or argument takes is told by its choices or by its metavar: files, a folder, or
something that cannot be completed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

__all__ = ["SHELLS", "completion"]

_FILES: Final = frozenset({"CAR", "SLICE", "PATH", "FILE", "OUT"})
_FOLDERS: Final = frozenset({"DIR"})


@dataclass(frozen=True)
class Argument:
    """An option, or an argument without one.

    Attributes:
        flags: the names of the option, such as `-q` and `--quiet`.
        summary: what it is for.
        values: the names of what it takes, one after the other.
        words: what those can be, if that is known.
        repeated: whether it can be given several times.
    """

    flags: Sequence[str]
    summary: str
    values: Sequence[str]
    words: Sequence[str]
    repeated: bool

    @property
    def takes_files(self) -> bool:
        """Whether its value is the path of a file."""
        return bool(_FILES.intersection(self.values))

    @property
    def takes_folder(self) -> bool:
        """Whether its value is the path of a folder."""
        return bool(_FOLDERS.intersection(self.values))


@dataclass(frozen=True)
class Command:
    """A command, or what comes before one.

    Attributes:
        name: its name; empty for what comes before one.
        summary: what it does.
        options: its options.
        arguments: its other arguments.
    """

    name: str
    summary: str
    options: Sequence[Argument]
    arguments: Sequence[Argument]


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that makes a shell complete the command line.

    Args:
        parser: the parser of the whole command line.
        shell: one of `SHELLS`.
    """
    commands = [
        _command(name, command)
        for action in _actions(parser)
        for name, command in _commands(action).items()
    ]
    return "\n".join([*SHELLS[shell](parser.prog, _command("", parser), commands), ""])


# --- What there is to complete ------------------------------------------------------------------


def _actions(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    return parser._actions  # noqa: SLF001 - argparse lists them nowhere else


def _commands(action: argparse.Action) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of the commands that an argument chooses from, by their names."""
    choices = action.choices
    if not isinstance(choices, Mapping):
        return {}
    return cast("Mapping[str, argparse.ArgumentParser]", choices)


def _command(name: str, parser: argparse.ArgumentParser) -> Command:
    found = [_argument(action) for action in _actions(parser) if not _commands(action)]
    return Command(
        name,
        _brief(parser.description or ""),
        [argument for argument in found if argument.flags],
        [argument for argument in found if not argument.flags],
    )


def _argument(action: argparse.Action) -> Argument:
    values: tuple[str, ...] = ()
    if isinstance(action.metavar, tuple):
        values = action.metavar
    elif action.nargs != 0:
        values = (action.metavar or action.dest.upper(),)
    return Argument(
        flags=action.option_strings,
        summary=_brief(action.help or ""),
        values=values,
        words=[str(choice) for choice in action.choices or ()],
        # `_AppendAction` has no public name, but is the one that is given a list of values.
        repeated=action.nargs == "+" or type(action).__name__ == "_AppendAction",
    )


def _brief(text: str) -> str:
    """Return what a help text says first."""
    return re.split(r"[.;:] | \(", text, maxsplit=1)[0].removesuffix(".")


# --- bash -----------------------------------------------------------------------------------------


def _bash(program: str, before: Command, commands: Sequence[Command]) -> Iterable[str]:
    function = _function_of(program)
    names = [command.name for command in commands]
    yield f"# Completion of {program} in bash."
    yield f"{function}_add() {{"
    yield "    local found"
    yield '    while IFS= read -r found; do COMPREPLY+=("$found"); done'
    yield "}"
    yield f"{function}() {{"
    yield "    local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD - 1]} command= i"
    yield "    COMPREPLY=()"
    yield "    # bash takes the `=` of --option=value for a word."
    yield '    if [[ $word == "=" ]]; then'
    yield "        word="
    yield '    elif [[ $last == "=" ]]; then'
    yield "        last=${COMP_WORDS[COMP_CWORD - 2]}"
    yield "    fi"
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield "        case ${COMP_WORDS[i]} in"
    yield f"            {'|'.join(names)}) command=${{COMP_WORDS[i]}} && break ;;"
    yield "        esac"
    yield "    done"
    yield "    case $command:$last in"
    for values, patterns in _bash_patterns((before, *commands), function).items():
        yield f"        {'|'.join(patterns)})"
        yield f"            {values}"
        yield "            return ;;"
    yield "    esac"
    yield "    case $command:$word in"
    for command in (before, *commands):
        flags = " ".join(flag for option in command.options for flag in option.flags)
        yield f"        {command.name}:-*) {_bash_words(flags, function)} ;;"
    yield f"        :*) {_bash_words(' '.join(names), function)} ;;"
    yield f"        *) {_bash_paths('-f', function)} ;;"
    yield "    esac"
    yield "}"
    yield f"complete -F {function} {program}"


def _bash_patterns(commands: Sequence[Command], function: str) -> dict[str, list[str]]:
    """Return what completes the values of options, and for which options of which commands."""
    patterns: dict[str, list[str]] = {}
    for command in commands:
        for option in command.options:
            if option.values:
                values = _bash_values(option, function)
                patterns.setdefault(values, []).extend(
                    f"{command.name}:{flag}" for flag in option.flags
                )
    return patterns


def _bash_values(option: Argument, function: str) -> str:
    if option.words:
        return _bash_words(" ".join(option.words), function)
    if option.takes_files:
        return _bash_paths("-f", function)
    return _bash_paths("-d", function) if option.takes_folder else ":"


def _bash_words(words: str, function: str) -> str:
    return f'{function}_add < <(compgen -W {_quoted(words)} -- "$word")'


def _bash_paths(which: str, function: str) -> str:
    # The bash of macOS has no `compopt`; there, spaces in names are not escaped.
    add = f'{function}_add < <(compgen {which} -- "$word")'
    return f"compopt -o filenames 2> /dev/null; {add}"


# --- zsh ------------------------------------------------------------------------------------------


def _zsh(program: str, before: Command, commands: Sequence[Command]) -> Iterable[str]:
    function = _function_of(program)
    yield f"#compdef {program}"
    yield f"# Completion of {program} in zsh."
    yield f"{function}() {{"
    yield "    local context state state_descr line"
    yield "    typeset -A opt_args"
    yield "    local -a commands"
    yield "    commands=("
    for command in commands:
        yield f"        {_quoted(f'{command.name}:{command.summary}')}"
    yield "    )"
    yield "    _arguments -C \\"
    for spec in _zsh_specs(before):
        yield f"        {spec} \\"
    yield "        '1:command:->command' '*::argument:->argument'"
    yield "    case $state in"
    yield "        command) _describe command commands ;;"
    yield "        argument)"
    yield "            case $line[1] in"
    for command in commands:
        yield f"                {command.name})"
        yield "                    _arguments \\"
        specs = [*_zsh_specs(command)]
        yield from (f"                        {spec} \\" for spec in specs[:-1])
        yield f"                        {specs[-1]} ;;"
    yield "            esac ;;"
    yield "    esac"
    yield "}"
    yield "# In a folder of $fpath, this file is the function; else it is run once."
    yield f"if [[ $funcstack[1] == {function} ]]; then"
    yield f'    {function} "$@"'
    yield "else"
    yield f"    compdef {function} {program}"
    yield "fi"


def _zsh_specs(command: Command) -> Iterable[str]:
    for option in command.options:
        others = "" if option.repeated else f"({' '.join(option.flags)})"
        values = "".join(f":{value}:{_zsh_values(option)}" for value in option.values)
        for flag in option.flags:
            name = f"{flag}=" if option.values and flag.startswith("--") else flag
            repeated = "*" if option.repeated else ""
            summary = _zsh_escaped(option.summary)
            yield _quoted(f"{others}{repeated}{name}[{summary}]{values}")
    for place, argument in enumerate(command.arguments, 1):
        which = "*" if argument.repeated else place
        yield _quoted(f"{which}:{argument.values[0]}:{_zsh_values(argument)}")


def _zsh_values(argument: Argument) -> str:
    if argument.words:
        return f"({' '.join(argument.words)})"
    if argument.takes_files:
        return "_files"
    return "_files -/" if argument.takes_folder else " "


def _zsh_escaped(text: str) -> str:
    for char in "\\[]:":
        text = text.replace(char, f"\\{char}")
    return text


# --- fish -----------------------------------------------------------------------------------------


def _fish(program: str, before: Command, commands: Sequence[Command]) -> Iterable[str]:
    yield f"# Completion of {program} in fish."
    yield f"complete -c {program} -f"
    yield from (f"complete -c {program} {line}" for line in _fish_lines(before, commands))


def _fish_lines(before: Command, commands: Sequence[Command]) -> Iterable[str]:
    for command in commands:
        summary = _fish_quoted(command.summary)
        yield f"-n __fish_use_subcommand -a {command.name} -d {summary}"
    for command in (before, *commands):
        condition = (
            _fish_quoted(f"__fish_seen_subcommand_from {command.name}")
            if command.name
            else "__fish_use_subcommand"
        )
        for option in command.options:
            parts = [f"-n {condition}", *map(_fish_flag, option.flags)]
            if option.values:
                parts.append(_fish_values(option))
            yield " ".join([*parts, f"-d {_fish_quoted(option.summary)}"])
        if any(argument.takes_files for argument in command.arguments):
            yield f"-n {condition} -F"


def _fish_flag(flag: str) -> str:
    return f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"


def _fish_values(option: Argument) -> str:
    if option.words:
        return f"-x -a {_fish_quoted(' '.join(option.words))}"
    if option.takes_files:
        return "-r -F"
    return "-x -a '(__fish_complete_directories)'" if option.takes_folder else "-x"


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


# --- All of them ----------------------------------------------------------------------------------


def _function_of(program: str) -> str:
    return f"_{program.replace('-', '_')}"


def _quoted(text: str) -> str:
    """Return a text as one word of bash or zsh."""
    inner = text.replace("'", "'\\''")
    return f"'{inner}'"


#: The shells, and what makes their scripts.
SHELLS: Final[dict[str, Callable[[str, Command, Sequence[Command]], Iterable[str]]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
