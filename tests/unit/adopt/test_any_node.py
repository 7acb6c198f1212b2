"""Adoption on any node that can be thought of."""

from pathlib import Path

from hypothesis import given, strategies as st

from recover import adopt
from recover.linux import mountinfo
from recover.store import Store
from tests.unit.adopt.nodes import (
    BASE,
    KUBELET,
    MOUNT_ROOT,
    SOURCE,
    find,
    layout,
    line,
    table,
    target,
    vol_data,
)

NAMES = st.sampled_from(["a", "b", "a-b", "b-c", "c", "a b\n"])
TYPES = st.sampled_from(["juicefs", "thin"])


@st.composite
def nodes(draw):
    """Return a mount table, what vol_data.json says by directory, and the true source by target.

    Of datasets with the same handle only one can have a PV, so only one has pods.
    """
    lines, data, truth, number = list(BASE), {}, {}, 100
    datasets = draw(st.lists(st.tuples(NAMES, NAMES), max_size=4, unique_by="-".join))
    for index, (namespace, name) in enumerate(datasets):
        source = f"{MOUNT_ROOT}/{draw(TYPES)}/{namespace}/{name}/x-fuse"
        generations = [f"0:{100 + 10 * index + life}" for life in range(draw(st.integers(1, 3)))]
        for dev in draw(st.sampled_from([[], generations[-1:], generations])):
            top = number if dev != generations[0] and f" {source} " in lines[-1] else 1
            number += 1
            lines.append(line(number, source, on=top, dev=dev))
        for pod in range(draw(st.integers(0, 3))):
            pv = draw(st.sampled_from([f"{namespace}-{name}", "virtual"]))
            place = target(pv.strip(), f"pod-{index}-{pod}")
            number += 1
            lines.append(line(number, place, dev=draw(st.sampled_from(generations))))
            truth[place] = source
            if draw(st.booleans()):
                data[str(Path(place).with_name("vol_data.json"))] = vol_data(f"{namespace}-{name}")
    return table(*lines[2:]), data, truth


@given(nodes())
def test_a_source_is_the_true_one_or_none(node):
    mounts, data, truth = node
    store, places = Store(), layout(lambda path: data.get(path, {}))

    found = adopt.find(mounts, store, places)

    for row in found.publications:
        assert row.source == truth[row.target]
        store.put_publication(row)
    targets = [row.target for row in found.publications] + [u.target for u in found.unknown]
    assert len(targets) == len(set(targets))
    assert set(targets) <= set(truth)
    shown = {m.dev for m in mounts if m.mount_point.startswith(MOUNT_ROOT)}
    for place in truth:
        mount = mounts.at(place)
        if mount is not None and mount.dev in shown:
            assert place in {row.target for row in found.publications}
    again = adopt.find(mounts, store, places)
    assert not {row.target for row in again.publications} & {
        row.target for row in found.publications
    }


@given(st.data())
def test_no_table_makes_it_fail(data):
    places = [target(), target("v", "p"), SOURCE, "/", KUBELET, f"{SOURCE}/x", "/mnt"]
    lines = [
        line(
            data.draw(st.integers(1, 8)),
            data.draw(st.sampled_from(places)),
            on=data.draw(st.integers(0, 8)),
            dev=data.draw(st.sampled_from(["0:55", "0:60"])),
            root=data.draw(st.sampled_from(["/", "/sub", "/sub/x//deleted"])),
            kind=data.draw(st.sampled_from(["fuse.juicefs x", "ext4 y"])),
        )
        for _ in range(data.draw(st.integers(0, 8)))
    ]

    found = find(mountinfo.parse("\n".join(lines).encode()))

    for row in found.publications:
        assert not row.source.startswith(f"{KUBELET}/pods")
        assert not row.sub_path.startswith("/")
