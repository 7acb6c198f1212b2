"""docs/walkthrough.md, typed command by command, and the same crash for pods of other shapes."""

import os
import re
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Fluid
from tests.cluster.fluidobjects import Spec
from tests.cluster.page import NOT_CONNECTED, Page, excerpt
from tests.cluster.plugin import Plugin
from tests.cluster.settings import NODE_NAME
from tests.cluster.waiting import wait_for
from tests.cluster.walk import (
    WALKTHROUGH,
    Walk,
    as_fluid_has_it,
    events_of_the_app,
    start_the_app,
)


def test_the_walk_through_goes_as_its_page_says(
    cluster: Cluster, image: Plugin, fluid: Fluid, walked: Spec, folder: Path
):
    image.deploy("base")
    page = Page(WALKTHROUGH)
    walk = Walk(cluster, page, folder, as_fluid_has_it)

    turn_recovery_on(walk, image)
    start_the_app(walk, fluid, walked)
    crash_while_it_lists(walk, image)
    wait_for(lambda: "FuseRecoverSucceed" in events_of_the_app(cluster), "the events")
    read_the_story(walk)
    for name in ("app", "dataset", "secret"):
        walk.type(f"delete -f {name}.yaml")

    assert walk.left == []
    if os.environ.get("WRITE_WALKTHROUGH"):
        page.write([(command, excerpt(said)) for command, said in walk.told])


def turn_recovery_on(walk: Walk, plugin: Plugin) -> None:
    assert walk.type("sed 's/Fuse") == "daemonset.apps/csi-nodeplugin-fluid configured\n"
    walk.type("rollout status")
    plugin.await_rollout()
    gate = walk.type("grep FuseRecovery")
    assert [line.strip() for line in gate.splitlines()] == ["- --feature-gates=FuseRecovery=true"]


def crash_while_it_lists(walk: Walk, plugin: Plugin) -> None:
    def heals() -> float:
        return plugin.metrics("csi_fluid_heals_total", result="healed")

    with walk.terminal("while true; do ls -l /data; sleep 1; done") as loop:
        wait_for(lambda: loop.lines_with("hello.txt") >= 2, "the listing")
        assert f"nodeName: {NODE_NAME}" in walk.type("grep nodeName")
        walk.find_pod("role=jindofs-fuse", "demo-dataset-jindofs-fuse")
        before = heals()
        walk.type("kill 1")
        wait_for(lambda: loop.lines_with(NOT_CONNECTED) > 0, "the error in the application")
        wait_for(lambda: heals() > before, "the heal", 60)
        loop.await_more("hello.txt")


def read_the_story(walk: Walk) -> None:
    assert re.search(r"^demo-app +1/1 +Running +0 ", walk.type("get po demo-app"), re.MULTILINE)
    assert re.search(r" 1/1 +Running +1 ", walk.type("get po -l role"))
    for command in ("describe dataset", "describe po"):
        said = walk.type(command)
        assert re.search(r"Normal +FuseRecoverSucceed .* Fuse recover /\S+ succeed", said)
        assert re.search(r"Warning +FuseBroken .* Fuse mount \S+ is broken", said)
    walk.find_pod("app=csi-nodeplugin-fluid --field", "csi-nodeplugin-fluid")
    said = walk.type("csi-fluid status")
    assert re.search(r"default/demo-dataset +healthy .* (\d)/\1 +[12] +[\d.]+ m?s, ", said)


def events(cluster: Cluster) -> str:
    return cluster.kubectl("describe", "po", "demo-app", "-n", "default")
