"""What to do on the node about a source: steps as data, for the log, `--dry-run` and tests.

Pure.  First everything is taken off older anchors, because what stands on one may itself be a
member of another's peer group; then the live mount gets its anchors, one of each variant, and each
older anchor a peer of the one of its variant.  What hangs off no anchor (a `subPath` bind, a bind
that another plugin made) gets a copy of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from recover import detect, policy
from recover.anchors.anchor import Anchor
from recover.anchors.retention import unneeded
from recover.anchors.shelf import Shelf, Variant
from recover.detect import Copy
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes
from recover.linux.namespaces import Namespace
from recover.rows import Generation, Publication


@dataclass(frozen=True, slots=True)
class Uncover:
    """Detach what stands on the lowest `keep` mounts of a path, here and wherever it was passed."""

    namespace: Namespace
    path: str
    stack: tuple[Mount, ...]
    keep: int = 1
    target: str = ""  # of a publication, "" where it is not at one

    def describe(self) -> str:
        """Say it in words."""
        return f"remove {len(self.stack) - self.keep} dead layer(s) on top of {self.path}"


@dataclass(frozen=True, slots=True)
class Make:
    """Mount a copy of the source as its anchor of a variant."""

    namespace: Namespace
    path: str
    source: str
    variant: Variant
    target: str = ""

    def describe(self) -> str:
        """Say it in words."""
        new = words(self.source, self.variant.inner, self.variant.attributes)
        return f"mount {new} as anchor {self.path}"


@dataclass(frozen=True, slots=True)
class Bring:
    """Mount a peer of the live anchor at `origin` on an older one; the kernel passes it on."""

    namespace: Namespace
    anchor: Anchor
    origin: str
    target: str = ""

    @property
    def path(self) -> str:
        """Return the mount point."""
        return self.anchor.path

    def describe(self) -> str:
        """Say it in words."""
        return f"mount {self.origin} on anchor {self.path} and so on all that hangs off it"


@dataclass(frozen=True, slots=True)
class Cover:
    """Mount a copy of an anchor on top of a dead mount that hangs off none."""

    namespace: Namespace
    copy: Copy
    origin: str
    attributes: Attributes
    target: str = ""

    @property
    def path(self) -> str:
        """Return the mount point."""
        return self.copy.path

    def describe(self) -> str:
        """Say it in words."""
        new = words(self.origin, "", self.attributes)
        return f"mount {new} on top of {self.path} (superblock {self.copy.stack[-1].dev})"


@dataclass(frozen=True, slots=True)
class Attach:
    """Mount a copy of an anchor at a target whose mount is gone."""

    namespace: Namespace
    target: str
    origin: str
    attributes: Attributes

    @property
    def path(self) -> str:
        """Return the mount point."""
        return self.target

    def describe(self) -> str:
        """Say it in words."""
        return f"mount {words(self.origin, '', self.attributes)} at {self.target}, now bare"


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove an anchor that is not needed any more, and with it its superblock."""

    namespace: Namespace
    anchor: Anchor
    target: str = ""

    @property
    def path(self) -> str:
        """Return the mount point."""
        return self.anchor.path

    def describe(self) -> str:
        """Say it in words."""
        return f"remove anchor {self.path}: nothing can hang off it any more"


@dataclass(frozen=True, slots=True)
class Skip:
    """Touch nothing here, and say why."""

    namespace: Namespace
    path: str
    reason: str
    target: str = ""

    def describe(self) -> str:
        """Say it in words."""
        return f"leave {self.path} in {self.namespace}: {self.reason}"


Act = Uncover | Make | Bring | Cover | Attach | Drop
Step = Act | Skip


@dataclass(frozen=True, slots=True)
class Case:
    """All that planning on the node needs to know about one source.

    number is that of the live generation; strays are dead copies that hang off no anchor; bare are
    publications whose target is a directory without a mount.
    """

    shelf: Shelf
    home: Namespace
    publications: tuple[Publication, ...]
    generations: tuple[Generation, ...]
    dead: frozenset[str]
    live: str = ""  # the source's superblock that answers, "" for none
    number: int = 0
    recover_writable: bool = False
    anchors: tuple[Anchor, ...] = ()
    strays: tuple[Copy, ...] = ()
    bare: tuple[Publication, ...] = ()

    def may_cover(self, stray: Copy) -> bool:
        """Tell whether a dead copy off no anchor may be healed."""
        return _refusal_of(self, stray, _owners(self, stray)) is None


def clear(case: Case) -> tuple[Uncover, ...]:
    """Return the steps that may be done while the source is away."""
    on_anchors = (
        Uncover(case.home, a.path, a.stack)
        for a in case.anchors
        if len(a.stack) > 1 and is_behind(case, a)
    )
    return (*on_anchors, *(step for c in case.strays if (step := _uncover(case, c)) is not None))


def _uncover(case: Case, stray: Copy) -> Uncover | None:
    """Return the step that takes dead layers off a live one, or off the lowest dead one."""
    lives = [index for index, mount in enumerate(stray.stack) if mount.dev == case.live]
    keep = lives[-1] + 1 if lives else 1
    if keep == len(stray.stack):
        return None
    target = _at(case, stray)
    return Uncover(case.home, stray.path, stray.stack, keep, target.target if target else "")


def steps(case: Case, origins: "Origins") -> tuple[Step, ...]:
    """Return the steps that bring the live mount to everybody on the node, in their order.

    origins may know more variants that need an anchor already.
    """
    covers, attaches = tuple(_covers(case, origins)), tuple(_attaches(case, origins))
    return (
        *clear(case),
        *makes(case, origins),
        *_brings(case, origins),
        *covers,
        *attaches,
        *_skips(case),
        *_drops(case),
    )


def is_behind(case: Case, anchor: Anchor) -> bool:
    """Tell whether what hangs off an anchor shows a dead mount.

    What shows an older daemon that still serves is left to it.
    """
    return {anchor.base.dev, anchor.top.dev} <= case.dead


def refusal(case: Case, variant: Variant) -> str | None:
    """Return why a variant must not be healed, None if it may."""
    if variant.read_only or case.recover_writable:
        return None  # without a look at a thousand publications
    return policy.refusal(
        copy_read_only=variant.read_only,
        publications=[p for p in case.publications if Variant.of(p) == variant]
        or case.publications,
        recover_writable=case.recover_writable,
    )


class Origins:
    """The live anchors to copy from; takes note of each variant that needs one."""

    def __init__(self, case: Case) -> None:
        """Begin with the variants of anchors that are behind, and of publications to come.

        Of a source that is away only what has to be healed needs an anchor.
        """
        self._case = case
        published = map(Variant.of, case.publications) if case.live else ()
        wanted = dict.fromkeys((*published, *_behind(case)))  # a few, of many publications
        allowed = (v for v in wanted if refusal(case, v) is None)
        self.variants = {variant.name: variant for variant in allowed}

    def of(self, variant: Variant) -> str:
        """Return the anchor to copy from for a copy at which later mounts are to arrive.

        So it has the copy's root, or nothing would arrive, and no more rights than that may have.
        """
        self.variants.setdefault(variant.name, variant)
        return self.path(variant)

    def around(self, inner: str, *, read_only: bool) -> tuple[str, str]:
        """Return an anchor to copy a part of the source from, and its path there.

        For a copy at which nothing is to arrive.
        """
        fitting = [v for v in self.variants.values() if v.read_only == read_only and _has(v, inner)]
        variant = max(fitting, key=lambda v: len(v.inner), default=Variant(read_only))
        self.variants.setdefault(variant.name, variant)
        return self.path(variant), inner[len(variant.inner) :].strip("/")

    def path(self, variant: Variant) -> str:
        """Return where the live generation's anchor of a variant is, or is to be."""
        return self._case.shelf.path(self._case.number, variant)


def _behind(case: Case) -> Iterator[Variant]:
    for anchor in case.anchors:
        inner = detect.inner_path(anchor.base, case.generations)
        if inner is not None and is_behind(case, anchor):
            yield Variant.named(anchor.variant, inner)


def makes(case: Case, origins: "Origins", *, but: frozenset[str] = frozenset()) -> Iterator[Make]:
    """Yield what is missing of the live generation's anchors, but for variants of these names."""
    there = but | {a.variant for a in case.anchors if a.base.dev == case.live}
    for name, variant in sorted(origins.variants.items()):
        if name not in there:
            yield Make(case.home, origins.path(variant), case.shelf.source, variant)


def _brings(case: Case, origins: Origins) -> Iterator[Bring]:
    """Yield a step for each older anchor whose copies do not see the live mount."""
    for anchor in case.anchors:
        variant = origins.variants.get(anchor.variant)
        if variant is not None and is_behind(case, anchor):
            yield Bring(case.home, anchor, origins.path(variant))


def _covers(case: Case, origins: Origins) -> Iterator[Step]:
    """Yield a step for each dead copy that hangs off no anchor, one for each peer group."""
    groups: set[tuple[int, str]] = set()
    for stray in case.strays:
        base = stray.stack[0]
        if any(mount.dev == case.live for mount in stray.stack) or (
            base.shared and (base.shared, base.root) in groups
        ):
            continue
        groups.add((base.shared, base.root))
        yield _cover(case, stray, origins)


def _cover(case: Case, stray: Copy, origins: Origins) -> Step:
    publication = _at(case, stray)
    target = publication.target if publication else ""
    variant = variant_of(case, stray, publication)
    if isinstance(variant, str):
        return Skip(case.home, stray.path, variant, target)
    base = stray.stack[0]
    flags = Attributes.of(base, read_only=variant.read_only).flags
    uncovered = replace(stray, stack=(base,))
    attributes = Attributes(flags, "slave-shared")
    return Cover(case.home, uncovered, origins.of(variant), attributes, target)


def variant_of(case: Case, copy: Copy, publication: Publication | None) -> Variant | str:
    """Return what a dead copy is to show, or the reason why it is left.

    publication is the one at whose target the copy stands; of another copy it is not known.
    """
    owners = (publication,) if publication else case.publications
    base = copy.stack[0]
    reason = _refusal_of(case, copy, owners)
    inner = publication.sub_path if publication else detect.inner_path(base, case.generations)
    if inner is None:
        return reason or f"it shows {base.inner_path}, which is outside of the source"
    if reason is not None:
        return reason
    # What every publication declares read-only must not stay writable because an earlier plugin
    # set the flag too late for it to propagate.
    read_only = copy.read_only or all(p.read_only for p in owners)
    # Its own variant: what may be mounted at one target need not be allowed at others.
    opted_in = publication is not None and publication.recover_writable and not read_only
    return Variant(read_only, inner, opted_in)


def _owners(case: Case, stray: Copy) -> tuple[Publication, ...]:
    publication = _at(case, stray)
    return (publication,) if publication else case.publications


def _refusal_of(case: Case, copy: Copy, owners: tuple[Publication, ...]) -> str | None:
    if any(mount.is_mapped for mount in copy.stack):
        return policy.MAPPED
    return policy.refusal(
        copy_read_only=copy.read_only,
        publications=owners,
        recover_writable=case.recover_writable,
    )


def _attaches(case: Case, origins: Origins) -> Iterator[Attach]:
    """Yield a step for each target whose mount is gone."""
    for p in case.bare:
        variant = Variant.of(p)
        if refusal(case, variant) is None:
            attributes = Attributes(frozenset(), "slave-shared", keep=True)
            yield Attach(case.home, p.target, origins.of(variant), attributes)


def _skips(case: Case) -> Iterator[Skip]:
    """Yield what must not be healed, by publication."""
    behind = {a.variant for a in case.anchors if is_behind(case, a)}
    reasons = {v: refusal(case, v) for v in set(map(Variant.of, case.publications))}
    for p in case.publications if any(reasons.values()) else ():
        variant = Variant.of(p)
        reason = reasons[variant]
        if reason and (variant.name in behind or p in case.bare):
            yield Skip(case.home, p.target, reason, p.target)


def _drops(case: Case) -> Iterator[Step]:
    """Yield what can go, last of all: nobody is to lose what he has before he has the new one."""
    gone, is_surplus = unneeded(((a.number, a.variant) for a in case.anchors), case.publications)
    for anchor in case.anchors:
        if (anchor.number, anchor.variant) in gone:
            yield Drop(case.home, anchor)
    if is_surplus:
        yield Skip(case.home, str(case.shelf.folder), policy.SURPLUS)


def _has(variant: Variant, inner: str) -> bool:
    return not variant.inner or f"{inner}/".startswith(f"{variant.inner}/")


def _at(case: Case, copy: Copy) -> Publication | None:
    return next((p for p in case.publications if p.target == copy.path), None)


def words(source: str, inner: str, attributes: Attributes) -> str:
    """Say what is cloned."""
    kind = "read-only" if "ro" in attributes.flags else "writable"
    return f"a {kind} copy of {source}{'/' + inner if inner else ''}"
