"""The options that every verb has: whom to ask, as whom, and for how long."""

import contextlib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from csi_fluid import optiontypes
from csi_fluid.cli import usage
from csi_fluid.kubectl import NAME
from csi_fluid.kubectl.api import Api
from csi_fluid.kubectl.fleet import Limits

_FLUID_NAMESPACE = "fluid-system"
_AT_ONCE = 100
_EACH = "20s"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line asks: the cluster, the plugin's namespace, the limits, and the rest."""

    api: Api
    namespace: str
    limits: Limits
    given: Namespace


class Parser(usage.Parser):
    """A parser with those options."""

    def __init__(self, verb: str, use: str, description: str, examples: str) -> None:
        super().__init__(verb, use, description, examples, program=NAME)
        group = self.add_argument_group("whom to ask")
        group.add_argument("--kubeconfig", default="", metavar="FILE", help="as kubectl's")
        group.add_argument("--context", default="", metavar="NAME", help="as kubectl's")
        group.add_argument(
            "--fluid-namespace",
            default=_FLUID_NAMESPACE,
            metavar="NAME",
            help=f"where the plugin is installed (default {_FLUID_NAMESPACE})",
        )
        group.add_argument(
            "--at-once",
            type=int,
            default=_AT_ONCE,
            metavar="N",
            help=f"ask so many nodes at a time (default {_AT_ONCE})",
        )
        group.add_argument(
            "--timeout",
            default=_EACH,
            metavar="DURATION",
            help=f"how long one node may take (default {_EACH})",
        )

    @contextmanager
    def read(self, words: Sequence[str]) -> Iterator[Asked]:
        """Give what a command line asks, with connections for a block; raises Misuse or Failure."""
        given = self.parse_args(words)
        try:
            each_s = optiontypes.parse_duration(given.timeout)
        except ValueError as error:
            raise usage.Misuse(f"--timeout={given.timeout}: {error}") from error
        if given.at_once < 1:
            raise usage.Misuse(f"--at-once={given.at_once}: expected a whole number above zero")
        with contextlib.closing(Api(given.kubeconfig, given.context)) as api:
            yield Asked(api, given.fluid_namespace, Limits(given.at_once, each_s), given)
