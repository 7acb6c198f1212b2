"""Arguments of the verbs: one parser, with the options of `config` where a verb wants them."""

import argparse
from collections.abc import Iterable, Sequence
from typing import NoReturn

from csi_fluid import config

HEALING = ("strategy", "recover-writable", "probe-timeout")
"""The flags that say how to heal, for the verbs that look at it."""


class Misuse(Exception):
    """The command line is wrong; the message says how, and what to do."""


class Failure(Exception):
    """A command could not do its work; the message says why, and the next step."""


class Parser(argparse.ArgumentParser):
    """A parser that raises Misuse instead of printing its whole usage."""

    def __init__(
        self, verb: str, usage: str, description: str, examples: str, *, program: str = "csi-fluid"
    ) -> None:
        """Make the parser of a verb; usage is what follows the verb, examples ends the help."""
        super().__init__(
            prog=f"{program} {verb}",
            usage=f"{program} {verb} {usage}",
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=_Format,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise Misuse."""
        raise Misuse(f"{self.prog.split()[-1]}: {message}; see {self.prog} --help")


class _Format(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)


def add_options(parser: Parser, options: Iterable[config.Option]) -> None:
    """Accept these options; those without effect are not shown in the help."""
    group = parser.add_argument_group("settings")
    for option in options:
        default = f" (default {option.default})" if option.default else ""
        is_switch = option.kind.is_switch
        group.add_argument(
            f"--{option.flag}",
            dest=option.flag,
            metavar=option.kind.name,
            nargs="?" if is_switch else None,
            const="true" if is_switch else None,
            help=option.help + default if option.field else argparse.SUPPRESS,
        )


def parse(
    parser: Parser, words: Sequence[str], *, required: tuple[str, ...] = ()
) -> tuple[config.Settings, argparse.Namespace]:
    """Return the settings that the options and the environment make, and the other arguments.

    Raises Misuse.
    """
    known = {option.flag for option in config.OPTIONS if option.flag}
    given = parser.parse_args([_long(word, known) for word in words])
    flags = {k: v for k, v in vars(given).items() if k in known and v is not None}
    try:
        return config.settle(flags, required=required), given
    except config.Invalid as error:
        raise Misuse(str(error)) from error


def _long(word: str, known: set[str]) -> str:
    """Return a flag in Go's style, -name or -name=value, with two dashes."""
    return f"-{word}" if word[:1] == "-" and word[1:].partition("=")[0] in known else word


def named(*flags: str) -> tuple[config.Option, ...]:
    """Return the options of these flags, for a verb that takes a few of them."""
    return tuple(option for option in config.OPTIONS if option.flag and option.flag in flags)
