"""Make the state file agree with the kernel: at every start, before the plugin says it is ready."""

import os
from pathlib import Path

from recover import adopt, observer as told
from recover.linux.mountinfo import MountTable
from recover.observer import Observer
from recover.store import Store


def boot_id() -> str:
    """Return what names this boot of the machine: proc_sys_kernel(5)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def reconcile(
    store: Store,
    table: MountTable,
    observer: Observer,
    *,
    kubelet_root: str | None,
    mount_root: str,
) -> None:
    """Drop rows of pods that are gone and generations of an earlier boot; adopt unknown mounts.

    Touches no FUSE path.
    """
    gone = adopt.gone(store.publications(), os.path.isdir)
    for publication in gone:
        store.remove_publication(publication.target)
    if gone:
        observer.tell(told.Dropped(gone))
    this_boot = boot_id()
    for source in store.sources():
        for generation in store.generations(source):
            if generation.boot_id != this_boot:
                store.remove_generation(source, generation.dev)
    found = adopt.found_publications(table, store, kubelet_root, mount_root)
    for publication in found:
        store.put_publication(publication)
    if found:
        observer.tell(told.Adopted(found))
