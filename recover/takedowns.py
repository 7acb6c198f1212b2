"""Places that somebody takes down while their source is healed: kubelet, removing a `subPath`.

It unmounts one mount each time it tries, so what is mounted once more on the dead one below it
would find there for ever.  Only the healer's memory tells such a place from one that is dead for
the first time: after a restart of the plugin it is covered once more, and kubelet tries once more.
"""

from dataclasses import replace

from recover.anchors.plan import Act, Cover
from recover.look import View


class Takedowns:
    """What was covered since the present daemon serves; used by one thread at a time."""

    def __init__(self) -> None:
        self._covered: set[tuple[str, int]] = set()  # paths, and ids of the lowest mounts there

    def note(self, step: Act) -> None:
        """Take note of a step that was done."""
        if isinstance(step, Cover):
            self._covered.add((step.path, step.copy.stack[0].mnt_id))

    def forget(self) -> None:
        """Forget all of them: another daemon serves."""
        self._covered.clear()

    def left_out(self, view: View) -> View:
        """Return a view without the places of no publication that were covered and are dead again.

        A target is healed as often as that happens: its unpublish takes down all of it at once.
        """
        if not self._covered:
            return view
        targets = {p.target for p in view.publications}
        left = {place for place in self._covered if place[0] not in targets}
        strays = (c for c in view.strays if (c.path, c.stack[0].mnt_id) not in left)
        return replace(view, strays=tuple(strays))
