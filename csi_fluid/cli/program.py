"""A program of verbs: finds the verb, and turns what goes wrong into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 used wrongly.  Data goes to stdout, talk to stderr.  A verb's module
is imported when it is called, so that none pays for another's libraries.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from csi_fluid import __version__
from csi_fluid.cli import usage


@dataclass(frozen=True, slots=True)
class Program:
    """A command: its name as one types it, what it is, its verbs, and the package of their modules.

    Each verb is a module with ``run(words) -> exit code``.
    """

    name: str
    about: str
    verbs: Mapping[str, str]
    package: str

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run a command line (default: the process's) and return its exit code."""
        words = list(sys.argv[1:] if argv is None else argv)
        debug = "--debug" in words
        try:
            code = self._run([word for word in words if word != "--debug"])
            sys.stdout.flush()  # here, where a reader that went away can be dealt with
        except SystemExit as end:  # argparse after --help
            return int(end.code or 0)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the top of the command line
            if debug:
                traceback.print_exc()
            return _explain(error)
        return code

    def _run(self, words: list[str]) -> int:
        verb = words[0] if words else "--help"
        if verb in {"-h", "--help", "help"}:
            print(self._help(), file=sys.stdout if words else sys.stderr)
            return 0 if words else 2
        if verb == "--version":
            verb = "version"
        if verb not in self.verbs:
            import difflib

            near = difflib.get_close_matches(verb, self.verbs, n=1)
            hint = f"did you mean {near[0]}?" if near else f"{self.name} --help lists what there is"
            raise usage.Misuse(f"there is no command {verb}; {hint}")
        code: int = importlib.import_module(f"{self.package}.{verb}").run(words[1:])
        return code

    def _help(self) -> str:
        verbs = "\n".join(f"  {verb:<9}{what}" for verb, what in self.verbs.items())
        return (
            f"{self.name} {__version__}: {self.about}.\n\n"
            f"usage: {self.name} COMMAND [OPTIONS]\n\ncommands:\n{verbs}\n\n"
            f"{self.name} COMMAND --help explains a command and gives an example.\n"
            "--debug, anywhere, shows the whole trace of an error."
        )


def _explain(error: BaseException) -> int:
    """Say in one line what went wrong; return the exit code."""
    match error:
        case KeyboardInterrupt():
            return 130
        case BrokenPipeError():  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        case usage.Misuse() | usage.Failure():
            text = str(error)
        case _:
            text = f"{type(error).__name__}: {error}; run it again with --debug to see where"
    print(f"csi-fluid: {text}", file=sys.stderr)
    return 2 if isinstance(error, usage.Misuse) else 1
