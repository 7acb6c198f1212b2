"""Look at one source, its anchors and its copies, changing nothing.

The answers that need a daemon come through the Prober; everything else is mount tables, which never
hang.  `detect` and `reach` then say what is broken and what will heal it.
"""

import enum
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from recover import detect
from recover.anchors import anchor as anchors, plan as node
from recover.anchors.anchor import Anchor
from recover.anchors.shelf import Shelf
from recover.detect import Copy
from recover.linux import fuse, mountinfo, mounts, namespaces, probe, syscalls
from recover.linux.mountinfo import Mount, MountTable
from recover.linux.namespaces import Namespace
from recover.linux.owntable import OwnTable
from recover.linux.probe import Answer, Prober, Reply
from recover.policy import Strategy
from recover.reach import Reach
from recover.rows import Generation, Method, Publication
from recover.store import Store
from recover.visits import plan as visits
from recover.visits.plan import Kin

_LAYERS = 2  # the dead mount and the live one

MadePrivate = Mapping[tuple[int, int], Mount]  # by namespace and mount id: as it was before


@dataclass(frozen=True, slots=True)
class View:
    """What was seen of a source.

    live is the superblock that answers at the source ("" for none), root what of it is mounted
    there, and answered_at the monotonic time in s of its reply;
    verdicts has the answer of each older superblock; seen are the older ones that still have a
    mount that is used.
    hanging counts the dead copies that need nothing but a mount on their anchor; strays are dead
    copies on the node off no anchor, copies those in other namespaces that nothing on the node
    reaches, exposed those that it would reach and harm, bare the publications without a mount;
    foreign are those of their namespaces that are other user namespaces', cut are namespaces with
    more mounts of it than are looked at.
    layers is the most mounts that stand at a path which shows the live one, deep are the paths on
    the node with more than two.
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
    anchors: tuple[Anchor, ...] = ()
    hanging: int = 0
    strays: tuple[Copy, ...] = ()
    copies: tuple[Copy, ...] = ()
    exposed: tuple[Copy, ...] = ()
    foreign: frozenset[Namespace] = frozenset()
    cut: tuple[Namespace, ...] = ()
    kin: Mapping[int, tuple[Kin, ...]] = field(default_factory=dict)
    layers: int = 1
    deep: tuple[Copy, ...] = ()
    peers: tuple[Copy, ...] = ()
    bare: tuple[Publication, ...] = ()
    is_everywhere: bool = True  # other namespaces were looked into too, if any ever are

    @property
    def number(self) -> int:
        """Return the number of the live generation, or the one that it will get."""
        for anchor in self.anchors:
            if anchor.base.dev == self.live:
                return anchor.number
        known = [g.number for g in self.generations if g.dev == self.live and g.dead_at is None]
        taken = [a.number for a in self.anchors] + [g.number for g in self.generations]
        return max(known, default=0) or 1 + max(taken, default=0)

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
    def is_sidecar(self) -> bool:
        """Tell whether the source is the mount of a serverless pod's own FUSE sidecar."""
        return any(p.method is Method.SIDECAR for p in self.publications)

    @property
    def is_broken(self) -> bool:
        """Tell whether somebody meets a dead mount now."""
        if self.bare or self.hanging or self.strays or self.copies or self.exposed:
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
        anchors: Path,
        recover_writable: bool = False,
    ) -> None:
        """Take the collaborators; only the namespace strategy looks into other namespaces.

        anchors is the folder of the plugin in which its anchors are kept.
        """
        self._store = store
        self._prober = prober
        self._own = own
        self._strategy = strategy
        self._anchors = anchors
        self._recover_writable = recover_writable
        self.home = namespaces.home()

    def shelf(self, source: str) -> Shelf:
        """Return where the anchors of a source are."""
        return Shelf(self._anchors, source)

    def look(
        self,
        source: str,
        *,
        reply: Reply | None = None,
        inside: bool = True,
        made_private: MadePrivate | None = None,
        held: frozenset[str] = frozenset(),
    ) -> View:
        """Return what is true of a source; inside=False leaves other namespaces out.

        reply is its answer where it was asked just now; made_private are copies in other namespaces
        that were made private, as they were before; held are superblocks of dead daemons, which
        keep whoever asks waiting.
        """
        reply = reply or self._prober.ask(source)
        table = self._own.current()
        publications = self._store.publications(source)
        generations = self._store.generations(source)
        found = anchors.find(table, self.shelf(source).folder)
        top = table.at(source)
        live = reply.dev if _answered(top, reply) else ""
        older = {g.dev for g in generations} | detect.superblocks_at_targets(publications, table)
        older |= {mount.dev for anchor in found for mount in anchor.stack if mount.is_fuse}
        if top is not None and top.is_fuse:
            older.add(top.dev)
        older.discard(live)
        older -= detect.impostors(table, generations)
        tables = [(self.home, table)]
        if older and inside and self._strategy is Strategy.NAMESPACE:
            tables += tables_with(older, frozenset(older) | {live}, generations)
        seen = frozenset(m.dev for _, each in tables for m in each if _uses(m, older))
        gone = frozenset(g.dev for g in generations if g.dead_at is not None)
        pinned = frozenset(a.base.dev for a in found)  # so the number is still the same superblock
        view = View(
            source=source,
            publications=publications,
            generations=generations,
            reply=reply if live or not reply.alive else Reply(Answer.ABSENT),
            answered_at=reply.at,
            live=live,
            root=top.root if top is not None else "/",
            seen=seen,
            anchors=found,
            verdicts=self._verdicts(
                source, reply, gone, gone & pinned | held, tables, seen | pinned
            ),
            bare=_bare(publications, table),
            is_everywhere=inside or self._strategy is not Strategy.NAMESPACE,
        )
        view = with_copies(self._node(view), view, tables, made_private or {})
        missed = {copy.namespace for copy in view.copies}
        return replace(view, foreign=frozenset(filter(namespaces.is_foreign, missed)))

    def is_live(self, source: str, reply: Reply) -> bool:
        """Tell whether a source's answer is that of a FUSE mount, not of what is below one."""
        return _answered(self._own.current().at(source), reply)

    def refresh(self, view: View, reply: Reply) -> View | None:
        """Return the view with the source's present answer, without reading any mount table.

        This is the short way from the event "mounted" to the heal: anchors and copies were indexed
        while the source was away.  None where the kernel cannot tell, or the view no longer fits.
        """
        if not reply.alive or not reply.mnt_id or reply.dev in view.verdicts:
            return None
        try:
            found = syscalls.statmount(reply.mnt_id)
        except OSError:
            return None
        if found.mount_point != view.source or not mountinfo.is_fuse(found.fs_type):
            return None
        return replace(
            view,
            publications=self._store.publications(view.source),
            generations=self._store.generations(view.source),
            reply=reply,
            answered_at=reply.at,
            root=found.root,
            live=reply.dev,
        )

    def case(self, view: View) -> visits.Case:
        """Return what planning needs to know about a view."""
        origins: dict[Mount, detect.Origin] = {}
        if nested := [mount for copy in view.copies for mount in copy.nested]:
            table, known = self._own.current(), self._store.generations()  # not read needlessly
            found = ((m, detect.origin_of(m, table, known)) for m in nested if not m.is_mapped)
            origins = {mount: origin for mount, origin in found if origin is not None}
        return visits.Case(
            self._node(view),
            view.copies,
            view.kin,
            origins,
            foreign=view.foreign,
            cut=view.cut,
            on_source=view.is_sidecar,
        )

    def _node(self, view: View) -> node.Case:
        return node.Case(
            shelf=self.shelf(view.source),
            home=self.home,
            publications=view.publications,
            generations=view.generations,
            dead=view.dead,
            live=view.live,
            number=view.number,
            recover_writable=self._recover_writable,
            anchors=view.anchors,
            strays=view.strays,
            bare=view.bare,
        )

    def _verdicts(
        self,
        source: str,
        reply: Reply,
        gone: frozenset[str],
        certain: frozenset[str],
        tables: list[tuple[Namespace, MountTable]],
        devs: frozenset[str],
    ) -> dict[str, Answer]:
        live = reply.dev if reply.alive else ""  # it may have got the number of a dead one
        verdicts = dict.fromkeys(sorted(certain & devs - {live}), Answer.DEAD)
        for dev in sorted(devs - verdicts.keys() - {live}):
            verdicts[dev] = self._verdict(dev, tables, source, reply, was_dead=dev in gone)
        return verdicts

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
            for mount in _safest_first(table.of_superblocks(frozenset({dev}))):
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


def _safest_first(found: Iterable[Mount]) -> list[Mount]:
    """Put anchors first: the way to one leads over no other volume."""
    return sorted(found, key=lambda mount: not anchors.is_anchor(mount.mount_point))


def _uses(mount: Mount, devs: Iterable[str]) -> bool:
    """Tell whether a mount of these superblocks is one that is used: an anchor is not."""
    return mount.dev in devs and not anchors.is_anchor(mount.mount_point)


def _answered(top: Mount | None, reply: Reply) -> bool:
    return reply.alive and top is not None and top.is_fuse and top.dev == reply.dev


def tables_with(
    devs: Iterable[str], ours: frozenset[str], generations: tuple[Generation, ...] = ()
) -> Iterator[tuple[Namespace, MountTable]]:
    """Yield the other namespaces that have a mount of these superblocks, impostors left out.

    Of each table there is what belongs to the superblocks `ours` and what stands on that.
    """
    marks = [b" %s " % dev.encode() for dev in devs]
    for namespace in namespaces.others():
        try:
            data = mountinfo.read_bytes(namespace.pid)
        except OSError:  # the process ended
            continue
        if any(mark in data for mark in marks):
            table = mountinfo.excerpt(data, ours)
            if strangers := detect.impostors(table, generations):
                kept = (m for m in table if m.dev not in strangers)
                table = MountTable(kept, is_cut=table.is_cut)
            yield namespace, table


def with_copies(
    case: node.Case,
    view: View,
    tables: list[tuple[Namespace, MountTable]],
    made_private: MadePrivate,
) -> View:
    """Return the view with the copies that these tables show, ours first."""
    home, own = tables[0]
    allowed = node.Origins(case).variants
    behind = [a for a in case.anchors if a.variant in allowed and node.is_behind(case, a)]
    found = functools.partial(detect.copies, dead=view.dead, live=view.live)

    def is_no_copy(path: str) -> bool:
        return path == view.source or anchors.is_anchor(path)

    here = _shown(own, found(home, own, is_spared=is_no_copy))
    broken = [copy for copy in here if copy.stack[-1].dev in view.dead]
    reach = Reach.of(behind, broken)
    strays = tuple(c for c in broken if not reach.has(c) and detect.is_visible(own, c))
    reach = reach.and_at(c for c in strays if case.may_cover(c))
    kin = _kin(behind, (c for c in here if c.stack[-1].dev == view.live or reach.has(c)))
    hanging = len(broken) - len(strays)
    layers = [len(c.stack) for c in here if c.stack[-1].dev == view.live]
    at_source = frozenset(mount.shared for mount in own.stack(view.source)) - {0}
    off_source = frozenset() if view.is_sidecar else at_source
    fates: dict[_Fate, list[Copy]] = {fate: [] for fate in _Fate}
    for namespace, table in tables[1:]:
        for copy in found(namespace, table, is_spared=anchors.is_anchor):
            if was := made_private.get((namespace.inode, copy.stack[0].mnt_id)):
                before = replace(copy, stack=(was, *copy.stack[1:]))
                fates[_Fate.MISSED].append(before)
            else:
                fates[_fate(copy, view, reach, off_source)].append(copy)
    hanging += len(fates[_Fate.REACHED])
    layers += [len(copy.stack) for copy in fates[_Fate.WHOLE]]
    return replace(
        view,
        hanging=hanging,
        strays=strays,
        copies=_visible(fates[_Fate.MISSED]),
        exposed=tuple(fates[_Fate.EXPOSED]),
        cut=tuple(namespace for namespace, table in tables if table.is_cut),
        kin=kin,
        layers=max(layers, default=1),
        deep=tuple(copy for copy in here if len(copy.stack) > _LAYERS),
        peers=_peers(at_source, strays),
    )


class _Fate(enum.Enum):
    """What becomes of a copy in another namespace when only the node is healed."""

    WHOLE = "shows the live mount already"
    REACHED = "gets the live mount"
    EXPOSED = "gets it, and loses by that"
    MISSED = "stays dead"


def _fate(copy: Copy, view: View, reach: Reach, off_source: frozenset[int]) -> _Fate:
    if copy.stack[-1].dev == view.live:
        return _Fate.WHOLE
    if _hangs_off(copy, off_source):
        return _Fate.EXPOSED  # to what the daemon stacks, as writable as that is
    if not reach.has(copy):
        return _Fate.MISSED
    return _Fate.EXPOSED if copy.nested or reach.weakens(copy) else _Fate.REACHED


def _shown(table: MountTable, copies: Iterable[Copy]) -> tuple[Copy, ...]:
    """Leave out what another copy at the same path hides: a directory that is bound on itself."""
    by_path: dict[str, list[Copy]] = {}
    for copy in copies:
        by_path.setdefault(copy.path, []).append(copy)
    groups = by_path.values()
    return tuple(
        c for group in groups for c in group if len(group) == 1 or detect.is_visible(table, c)
    )


def _visible(copies: Iterable[Copy]) -> tuple[Copy, ...]:
    """Leave out the copies that something else hides, for which the tables are read again."""
    kept: list[Copy] = []
    for pid, group in itertools.groupby(copies, key=lambda copy: copy.namespace.pid):
        there = tuple(group)
        try:
            table = mountinfo.leading_to(mountinfo.read_bytes(pid), (c.path for c in there))
        except OSError:  # the process ended
            continue
        kept += [c for c in there if _ids(table.stack(c.path)[-len(c.stack) :]) == _ids(c.stack)]
    return tuple(kept)


def _ids(stack: Iterable[Mount]) -> list[int]:
    return [mount.mnt_id for mount in stack]


def _kin(behind: Iterable[Anchor], here: Iterable[Copy]) -> dict[int, tuple[Kin, ...]]:
    """Return the paths of the node that copies elsewhere hang off, by each peer group there."""
    found: dict[int, tuple[Kin, ...]] = {}
    piles = [(c.path, c.stack) for c in here] + [(a.path, a.stack) for a in behind]
    for path, pile in piles:
        for mount in pile:
            if mount.shared:
                kin = Kin(path, mount.inner_path)
                found[mount.shared] = (*found.get(mount.shared, ()), kin)
    return found


def _hangs_off(copy: Copy, groups: frozenset[int]) -> bool:
    return any({mount.shared, mount.master} & groups for mount in copy.stack)


def _peers(groups: frozenset[int], strays: Iterable[Copy]) -> tuple[Copy, ...]:
    peers = (c for c in strays if c.stack[-1].shared in groups)
    return tuple(c for c in peers if not any(m.shared in groups for m in c.stack[:-1]))


def _bare(publications: Iterable[Publication], table: MountTable) -> tuple[Publication, ...]:
    points = {mount.mount_point for mount in table}
    return tuple(p for p in publications if p.target not in points and is_bare(p))


def is_bare(publication: Publication) -> bool:
    """Tell whether a bind target is a directory without a mount: what was published is gone."""
    if publication.method is not Method.BIND:
        return False
    shown = mounts.shown(publication.target)
    return shown is not None and not shown.is_mount
