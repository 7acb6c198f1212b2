"""`csi-fluid recover`: the plan in words, then the same heal that the plugin does."""

import contextlib
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence

from csi_fluid import config
from csi_fluid.cli import holding, screen, times, usage, words
from csi_fluid.cli.status import read_state
from csi_fluid.kubelet import Kubelet
from recover import events, loop, survey
from recover.anchors.plan import Skip
from recover.heal import Context, Healer, Options
from recover.holds import Holding, Holds, NoHolds
from recover.linux.owntable import OwnTable
from recover.linux.probe import Prober
from recover.linux.probehelper import ProbeHelper
from recover.parts import Parts
from recover.seamless.client import Client
from recover.states import State
from recover.store import Store
from recover.survey import SourceReport

_EXAMPLES = f"""\
  csi-fluid recover --dry-run
  csi-fluid recover default/demo
  csi-fluid recover {Kubelet().target("UID", "PV")}"""
_DESCRIPTION = """\
Heal broken volumes now, beside a running plugin or without one.
A TARGET is a dataset (namespace/name), a FUSE mount or a published path, and stands for every copy
of that dataset.  Without one, everything is healed."""


def run(argv: Sequence[str]) -> int:
    """Print the plan and carry it out; return 1 if one of the volumes is not well afterwards."""
    parser = usage.Parser("recover", "[OPTIONS] [TARGET...]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="what to heal")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    usage.add_options(parser, usage.named("state", "holder", "hold-timeout", *usage.HEALING))
    settings, given = usage.parse(parser, argv)
    store = read_state(settings.state)
    with contextlib.closing(ProbeHelper()) as helper:
        prober = Prober(timeout_s=settings.probe_timeout_s, helper=helper)
        return _recover(store, prober, settings, given)


def _recover(store: Store, prober: Prober, settings: config.Settings, given: Namespace) -> int:
    reports = _chosen(_survey(store, prober, settings), given.targets)
    _print_plan(reports)
    if given.dry_run:
        return 0
    held = holding.ask(settings)
    with _healing(store, prober, settings, is_holding=not held.problem) as context:
        for report in reports:
            waits = held.of(report.source).waits_s is not None
            if waits or any(not isinstance(step, Skip) for step in report.steps):
                _heal(report, context)
    ill = [
        report
        for report in _chosen(_survey(store, prober, settings), given.targets)
        if report.state is not State.HEALTHY
    ]
    for report in ill:
        text = f"{report.dataset}: {report.state.value}; {words.advice(report)}"
        print(screen.plain(text), file=sys.stderr)
    return int(bool(ill))


def _survey(store: Store, prober: Prober, settings: config.Settings) -> tuple[SourceReport, ...]:
    strategy = loop.chosen_strategy(settings.strategy)
    return screen.patiently(
        "asking the FUSE daemons",
        lambda: survey.survey(
            store,
            prober,
            strategy,
            anchors=settings.anchors,
            recover_writable=settings.recover_writable,
            held=holding.ask(settings).dead,
        ),
    )


def _chosen(reports: Sequence[SourceReport], targets: Sequence[str]) -> tuple[SourceReport, ...]:
    """Return the reports that the targets name; raises usage.Failure for an unknown target."""
    names = {target.rstrip("/") for target in targets}
    known = {name for report in reports for name in _names(report)}
    if unknown := sorted(names - known):
        raise usage.Failure(f"{unknown[0]} is no published volume; csi-fluid status lists them")
    return tuple(report for report in reports if not names or names & _names(report))


def _names(report: SourceReport) -> set[str]:
    return {report.dataset, report.source, *(p.target for p in report.publications)}


def _print_plan(reports: Sequence[SourceReport]) -> None:
    for report in reports:
        print(f"{screen.plain(report.dataset)}: {report.state.value}")
        for number, step in enumerate(report.steps, 1):
            print(f"  {number}. {screen.plain(step.describe())}")
    if not any(report.steps for report in reports):
        print("nothing to do")


@contextlib.contextmanager
def _healing(
    store: Store, prober: Prober, settings: config.Settings, *, is_holding: bool
) -> Iterator[Context]:
    """Give what a heal needs; the lease keeps a running plugin from healing the same copies.

    A holder that runs is told, as by the plugin: those who wait there wait for that.
    """
    strategy = loop.chosen_strategy(settings.strategy)
    with contextlib.closing(OwnTable()) as own:
        options = Options(
            strategy, settings.recover_writable, settings.lease, settings.warning_threshold
        )
        parts = Parts.of(store, prober, settings.anchors)
        with contextlib.closing(
            _holds(settings, prober, own) if is_holding else NoHolds()
        ) as holds:
            yield Context.of(parts, _Told(), own, options, holds)


def _holds(settings: config.Settings, prober: Prober, own: OwnTable) -> Holding:
    client = Client(settings.holder_socket, starts=False)
    return Holds(client, prober, own, settings.hold_timeout_s)


def _heal(report: SourceReport, context: Context) -> None:
    with contextlib.closing(Healer(report.source, context, lambda: False)) as healer:
        screen.patiently(f"healing {report.dataset}", healer.run)


class _Told:
    """Prints what a heal tells."""

    def tell(self, event: events.Event) -> None:
        """Print an event."""
        match event:
            case events.Healed(copies=copies, layers=layers, latency_s=latency_s):
                text = f"healed {copies} copies of {event.source} in {times.latency(latency_s)}"
                print(screen.plain(f"{text}, layers: {layers}"))
            case events.HealFailed(where=where, error=error):
                print(screen.plain(f"failed at {where}: {error}"))
            case (
                events.Broken()
                | events.Hung()
                | events.Answering()
                | events.Aborted()
                | events.AbortFailed()
                | events.Skipped()
                | events.Stacked()
                | events.Adopted()
                | events.Dropped()
                | events.StateTrouble()
                | events.Woken()
            ):
                pass
