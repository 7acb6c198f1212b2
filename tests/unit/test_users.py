"""Who uses a volume: a FUSE sidecar at the same place on the node has a daemon of its own."""

from dataclasses import replace
from pathlib import Path

from csi_fluid.kubelet import Kubelet
from csi_fluid.volumes.users import Users
from recover.rows import Method, Publication
from recover.store import Store

SOURCE = "/runtime-mnt/jindo/default/demo/jindofs-fuse"


def test_a_sidecar_on_the_source_of_a_volume_is_no_user_of_it(tmp_path: Path):
    store = Store()
    sidecar = Publication(target=SOURCE, volume_id="", source=SOURCE, method=Method.SIDECAR)
    store.put_publication(sidecar)
    users = Users(store, Kubelet(str(tmp_path)))
    assert users.of("default-demo", SOURCE) == ""

    store.put_publication(replace(sidecar, target="/target", method=Method.BIND))
    assert users.of("default-demo", SOURCE) == "/target"
