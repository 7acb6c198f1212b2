"""The walk-through of docs/serverless.md, typed command by command."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_fluid.testbed.objectstore import ObjectStore
from tests.cluster.admission import FluidWebhook
from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Fluid
from tests.cluster.fluidobjects import Spec
from tests.cluster.page import Page, excerpt
from tests.cluster.plugin import Plugin
from tests.cluster.recovery import Recovery
from tests.cluster.serverlesspods import AGENT, NOT_CONNECTED, SIDECAR, Serverless
from tests.cluster.settings import ROOT
from tests.cluster.waiting import wait_for
from tests.cluster.walk import WALKTHROUGH, Walk, as_on_this_cluster, start_the_app

PAGE = ROOT / "docs/serverless.md"


@pytest.fixture
def spec(
    cluster: Cluster,
    fluid: Fluid,
    image: Plugin,
    injector: FluidWebhook,
    recovery: Recovery,
    bucket: ObjectStore,
) -> Iterator[Spec]:
    """Return what the stand-ins are to make of the page's dataset."""
    image.remove()
    told = {"FUSE_KIND": "s3fs", "FUSE_SOURCE": "demo-bucket:/dir", "FUSE_ENDPOINT": bucket.url}
    told["FUSE_DELAY"] = "2"  # a loop of one second does not see a shorter outage
    room = Serverless(cluster, fluid, injector, "default")
    yield room.adopt(Spec("default", "demo-dataset", secret="mysecret", environment=told))
    room.close()
    assert room.traces() == []
    cluster.kubectl("delete", "secret/mysecret", "-n", "default", "--ignore-not-found")


def test_the_walk_through_goes_as_the_page_says(
    cluster: Cluster, fluid: Fluid, spec: Spec, folder: Path
):
    for name, text in Page(WALKTHROUGH).files.items():
        (folder / name).write_text(text)
    page = Page(PAGE)
    walk = Walk(cluster, page, folder, as_on_this_cluster)

    start_the_app(walk, fluid, spec)
    assert walk.type("get po demo-app").split() == [SIDECAR, AGENT, "demo"]
    crash_while_it_lists(walk)
    read_the_story(walk)
    for name in ("app", "dataset", "secret"):
        walk.type(f"delete -f {name}.yaml")

    assert walk.left == []
    if os.environ.get("WRITE_WALKTHROUGH"):
        page.write([(command, excerpt(said)) for command, said in walk.told])


def crash_while_it_lists(walk: Walk) -> None:
    with walk.terminal("while true; do ls -l /data; sleep 1; done") as loop:
        wait_for(lambda: loop.lines_with("hello.txt") >= 2, "the listing")
        walk.type("-c fluid-fuse-0 -- kill 1")
        wait_for(lambda: loop.lines_with(NOT_CONNECTED), "the listing's end", every_s=0.02)
        loop.await_more("hello.txt")


def read_the_story(walk: Walk) -> None:
    restarts = walk.type("restartCount")
    assert f"{SIDECAR}: 1 restarts" in restarts
    assert f"{AGENT}: 0 restarts" in restarts
    assert "demo: 0 restarts" in restarts
    said = walk.type(f"logs demo-app -c {AGENT}")
    assert re.search(r"WARNING Fuse mount \S+ is broken", said)
    assert re.search(r"healed .*strategy=anchor", said)
    assert len(walk.type("grep ' /data '").splitlines()) == 2
