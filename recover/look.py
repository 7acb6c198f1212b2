"""Look at one source and its copies, changing nothing.

The answers that need a daemon come through the Prober; everything else is mount tables, which never
hang.  `detect` then says what is broken.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from recover import anchor, detect, plan
from recover.detect import Copy
from recover.linux import fuse, mountinfo, mounts, namespaces, probe, syscalls
from recover.linux.mountinfo import Mount, MountTable
from recover.linux.namespaces import Namespace
from recover.linux.owntable import OwnTable
from recover.linux.probe import Answer, Prober, Reply
from recover.plan import Strategy
from recover.store import Generation, Publication, Store


@dataclass(frozen=True, slots=True)
class View:
    """What was seen of a source.

    live is the superblock that answers at the source ("" for none), root what of it is mounted
    there, and answered_at the monotonic time in s of its reply;
    verdicts has the answer of each older superblock; seen are the older ones that still have a
    mount anywhere; copies are the broken ones, bare the publications without a mount.
    peers are copies in our own namespace that are peers of the mount at the source.
    """

    source: str
    publications: tuple[Publication, ...]
    generations: tuple[Generation, ...]
    reply: Reply
    answered_at: float
    live: str = ""
    root: str = "/"
    verdicts: Mapping[str, Answer] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()
    copies: tuple[Copy, ...] = ()
    peers: tuple[Copy, ...] = ()
    bare: tuple[Publication, ...] = ()

    @property
    def dead(self) -> frozenset[str]:
        """Return the superblocks known to be dead."""
        return frozenset(dev for dev, answer in self.verdicts.items() if answer is Answer.DEAD)

    @property
    def serving(self) -> frozenset[str]:
        """Return the superblocks whose daemons are there: the live one, and older ones in use."""
        gone = {Answer.DEAD, Answer.ABSENT}
        older = (dev for dev, answer in self.verdicts.items() if answer not in gone)
        return frozenset({self.live, *older}) - {""}

    @property
    def broken(self) -> bool:
        """Tell whether somebody meets a dead mount now."""
        if self.bare or any(copy.stack[-1].dev in self.dead for copy in self.copies):
            return True
        return not self.live and bool(self.dead & self.seen)


class Looker:
    """Looks at sources; one for all of them."""

    def __init__(
        self,
        store: Store,
        prober: Prober,
        own: OwnTable,
        strategy: Strategy,
        *,
        recover_writable: bool = False,
    ) -> None:
        """Take the collaborators; only the namespace strategy looks into other namespaces."""
        self._store = store
        self._prober = prober
        self._own = own
        self._strategy = strategy
        self._recover_writable = recover_writable
        self.home = namespaces.home()

    def look(self, source: str, *, inside: bool = True) -> View:
        """Return what is true of a source; inside=False leaves other namespaces out."""
        reply = self._prober.ask(source)
        answered_at = time.monotonic()
        table = self._own.current()
        publications = self._store.publications(source)
        generations = self._store.generations(source)
        top = table.at(source)
        live = reply.dev if reply.alive and top is not None and _same(top, reply.dev) else ""
        older = {g.dev for g in generations} | detect.superblocks_at_targets(publications, table)
        if top is not None and top.is_fuse:
            older.add(top.dev)
        older.discard(live)
        older -= detect.impostors(table, generations)
        tables = [(self.home, table)]
        if older and inside and self._strategy is Strategy.NAMESPACE:
            tables += tables_with(older, generations)
        seen = frozenset(m.dev for _, found in tables for m in found if _uses(m, older))
        gone = frozenset(g.dev for g in generations if g.dead_at is not None)
        verdicts = {
            dev: self._verdict(dev, tables, source, reply, was_dead=dev in gone)
            for dev in sorted(seen)
        }
        view = View(
            source=source,
            publications=publications,
            generations=generations,
            reply=reply if live or not reply.alive else Reply(Answer.ABSENT),
            answered_at=answered_at,
            live=live,
            root=top.root if top is not None else "/",
            verdicts=verdicts,
            seen=seen,
            bare=tuple(p for p in publications if table.at(p.target) is None and is_bare(p)),
        )
        return with_copies(view, tables, self.home)

    def refresh(self, view: View) -> View | None:
        """Return the view with the source's present answer, without reading any mount table.

        This is the short way from the event "mounted" to the first swap: the copies were indexed
        while the source was away.  None where the kernel cannot tell, or the view no longer fits.
        """
        reply = self._prober.ask(view.source)
        answered_at = time.monotonic()
        if not reply.alive or not reply.mnt_id or reply.dev in view.verdicts:
            return None
        try:
            found = syscalls.statmount(reply.mnt_id)
        except OSError:
            return None
        if found.mount_point != view.source or "fuse" not in found.fs_type:
            return None
        return replace(
            view,
            publications=self._store.publications(view.source),
            generations=self._store.generations(view.source),
            reply=reply,
            answered_at=answered_at,
            root=found.root,
            live=reply.dev,
        )

    def case(self, view: View, settled: frozenset[tuple[int, str]] = frozenset()) -> plan.Case:
        """Return what planning needs to know about a view."""
        lost: frozenset[Mount] = frozenset()
        if nested := [mount for copy in view.copies for mount in copy.nested]:
            table, known = self._own.current(), self._store.generations()  # not read needlessly
            lost = frozenset(m for m in nested if detect.origin_of(m, table, known) is None)
        return plan.Case(
            source=view.source,
            home=self.home,
            strategy=self._strategy,
            publications=view.publications,
            generations=view.generations,
            live=view.live,
            recover_writable=self._recover_writable,
            copies=view.copies,
            bare=view.bare,
            unavailable=lost,
            settled=settled,
        )

    def _verdict(
        self,
        dev: str,
        tables: list[tuple[Namespace, MountTable]],
        source: str,
        reply: Reply,
        *,
        was_dead: bool,
    ) -> Answer:
        """Ask an older superblock, through the first copy that can be asked, if its daemon lives.

        Where other mounts cover all of its copies, nobody can ask.  It is dead if it was before,
        for no daemon comes back to life, or if no process serves it (an earlier plugin left it).
        """
        is_covered = False
        for namespace, table in tables:
            for mount in table.of_superblocks(frozenset({dev})):
                at_source = namespace == self.home and mount.mount_point == source
                if table.at(mount.mount_point) != mount:
                    is_covered = is_covered or not at_source
                    continue
                is_its_own = at_source and reply.dev == dev  # it may have come after the asking
                answer = reply.answer if is_its_own else self._ask_at(namespace, mount)
                if answer is Answer.HUNG and was_dead:
                    return Answer.DEAD  # the way there leads over another daemon, which hangs
                if answer is not Answer.ABSENT:
                    return answer
        if is_covered and (was_dead or not fuse.daemons(dev)):
            return Answer.DEAD
        return Answer.ABSENT

    def _ask_at(self, namespace: Namespace, mount: Mount) -> Answer:
        def ask(root_fd: int) -> Answer:
            with mounts.closing(mounts.open_exactly(mount.mount_point, mount, root_fd)) as fd:
                return probe.ask(fd).answer

        try:
            return namespaces.visit(namespace, ask, self._prober, key=("superblock", mount.dev))
        except TimeoutError:
            return Answer.HUNG
        except Exception:  # noqa: BLE001  it changed or ended meanwhile: the next look will tell
            return Answer.ABSENT


def _uses(mount: Mount, devs: Collection[str]) -> bool:
    """Tell whether a mount of these superblocks is one that is used: an agent's anchor is not."""
    return mount.dev in devs and not anchor.is_anchor(mount.mount_point)


def _same(top: Mount, dev: str) -> bool:
    return top.is_fuse and top.dev == dev


def tables_with(
    devs: Iterable[str], generations: tuple[Generation, ...] = ()
) -> Iterator[tuple[Namespace, MountTable]]:
    """Yield the other namespaces that have a mount of these superblocks, impostors left out."""
    marks = [b" %s " % dev.encode() for dev in devs]
    for namespace in namespaces.others():
        try:
            data = mountinfo.read_bytes(namespace.pid)
        except OSError:  # the process ended
            continue
        if any(mark in data for mark in marks):
            table = mountinfo.parse(data)
            strangers = detect.impostors(table, generations)
            yield namespace, MountTable(m for m in table if m.dev not in strangers)


def with_copies(view: View, tables: list[tuple[Namespace, MountTable]], home: Namespace) -> View:
    """Return the view with the broken copies that these tables show, ours first."""
    targets = frozenset(p.target for p in view.publications)
    at_source = tables[0][1].stack(view.source)
    beneath = frozenset(mount.shared for mount in at_source[:-1]) - {0}
    elsewhere = detect.Limits(source_groups=beneath)
    at_home = detect.Limits(frozenset({view.source}), targets, beneath)
    copies: list[Copy] = []
    for namespace, table in tables:
        limits = at_home if namespace.inode == home.inode else elsewhere
        copies += detect.broken_copies(
            namespace, table, dead=view.dead, live=view.live, limits=limits
        )
    groups = frozenset(mount.shared for mount in at_source) - {0}
    peers = (c for c in copies if c.namespace.inode == home.inode and c.stack[-1].shared in groups)
    alone = (c for c in peers if not any(mount.shared in groups for mount in c.stack[:-1]))
    return replace(view, copies=tuple(copies), peers=tuple(alone))


def is_bare(publication: Publication) -> bool:
    """Tell whether a bind target is a directory without a mount: what was published is gone."""
    if publication.method != "bind":
        return False
    shown = mounts.shown(publication.target)
    return shown is not None and not shown.is_mount
