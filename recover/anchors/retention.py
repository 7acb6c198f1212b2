"""Which anchors of a source stay: those that somebody may hang off, up to a limit."""

from collections.abc import Iterable

from recover.anchors.anchor import Key
from recover.anchors.shelf import Variant
from recover.policy import KEPT_ANCHORS
from recover.rows import Publication


def unneeded(
    anchors: Iterable[Key], publications: Iterable[Publication]
) -> tuple[frozenset[Key], bool]:
    """Return the anchors off which nobody can hang, and whether needed ones are among them.

    Somebody may have hung a copy on an anchor as long as a publication lives that was there while
    the anchor's generation was the newest.  Only of more than KEPT_ANCHORS of a variant a needed
    one goes, the second oldest: off the oldest hang the containers that never were restarted.
    """
    seen: dict[tuple[bool, str, bool], int] = {}
    for p in publications:
        kind = p.read_only, p.sub_path, p.recover_writable and not p.read_only
        seen[kind] = min(seen.get(kind, p.generation), p.generation)
    oldest = {Variant(*kind).name: number for kind, number in seen.items()}
    of_all = min(oldest.values(), default=None)
    gone: set[Key] = set()
    kept: dict[str, list[Key]] = {}
    for number, variant in sorted(anchors):
        first = oldest.get(variant, of_all)
        if first is None or number < first:
            gone.add((number, variant))
        else:
            kept.setdefault(variant, []).append((number, variant))
    surplus = {
        key for group in kept.values() for key in group[1 : max(len(group) - KEPT_ANCHORS, 0) + 1]
    }
    return frozenset(gone | surplus), bool(surplus)
