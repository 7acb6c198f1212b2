"""The command line: finds the verb, and turns what goes wrong into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 used wrongly.  Data goes to stdout, talk to stderr.  A verb's module
is imported when it is called, so that none pays for another's libraries.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from csi_fluid import __version__
from csi_fluid.cli import usage

VERBS = {
    "start": "publish the volumes of this node and heal them",
    "status": "show what is published, and what is broken",
    "doctor": "check whether this machine has what the plugin needs",
    "recover": "heal broken volumes now, or say what would be done",
    "agent": "heal the FUSE mounts of one serverless pod, from a container in it",
    "webhook": "give serverless pods that ask for recovery their agent, as an admission webhook",
    "demo": "watch a FUSE daemon die and its volume heal, on this machine",
    "version": "print the version",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        code = _run([word for word in words if word != "--debug"])
        sys.stdout.flush()  # here, where a reader that went away can be dealt with
    except SystemExit as end:  # argparse after --help
        return int(end.code or 0)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the top of the command line
        if debug:
            traceback.print_exc()
        return _explain(error)
    return code


def _run(words: list[str]) -> int:
    verb = words[0] if words else "--help"
    if verb in {"-h", "--help", "help"}:
        print(_help(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if verb == "--version":
        verb = "version"
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "csi-fluid --help lists what there is"
        raise usage.Misuse(f"there is no command {verb}; {hint}")
    code: int = importlib.import_module(f"csi_fluid.cli.{verb}").run(words[1:])
    return code


def _help() -> str:
    verbs = "\n".join(f"  {verb:<9}{what}" for verb, what in VERBS.items())
    return (
        f"csi-fluid {__version__}: CSI node plugin for Fluid that heals broken FUSE volumes.\n\n"
        f"usage: csi-fluid COMMAND [OPTIONS]\n\ncommands:\n{verbs}\n\n"
        "csi-fluid COMMAND --help explains a command and gives an example.\n"
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
