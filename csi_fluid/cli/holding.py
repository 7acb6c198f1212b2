"""What the holder of seamless recovery says, for the verbs that look."""

import contextlib

from csi_fluid import config
from csi_fluid.cli import times
from csi_fluid.cli.facilities import Finding
from recover.seamless.client import Client, Held, Status


def ask(settings: config.Settings) -> Status:
    """Return what is held on this node; nothing where no holder runs."""
    with contextlib.closing(Client(settings.holder_socket, starts=False)) as client:
        return client.status()


def finding(settings: config.Settings) -> Finding:
    """Say whether a holder is there, for `doctor`: it is needed with SeamlessRecovery alone."""
    what, status = f"holder at {settings.holder_socket}", ask(settings)
    if status.problem:
        return Finding(what, "ok", "does not run: only with SeamlessRecovery=true it has to")
    if not status.has_reader:
        follows = "callers of a dead FUSE daemon wait for --hold-timeout and see an error then"
        return Finding(what, "limited", "runs, and has no reader", follows)
    return Finding(what, "ok", f"runs, with a reader; {len(status.sources)} sources are kept")


def words(held: Held) -> str:
    """Say what is held of a source; "" where nothing is."""
    states = list(held.connections.values())
    dead = len(states) - states.count("live")
    if held.failing:
        return "callers were kept waiting for --hold-timeout, and see errors until the heal"
    if held.waits_s is not None:
        waiting = f"{held.counts.get('waiting', 0):.0f} requests wait"
        return f"{waiting} for the FUSE daemon since {times.latency(held.waits_s)}"
    if dead:
        served = held.counts.get("served", 0)
        return f"{dead} dead connections are served, {served:.0f} requests so far"
    if held.lack:
        return f"applications will see the next crash as errors until the heal: {held.lack}"
    return ""
