"""The cluster tests: a real Kubernetes with one node, in namespaces of its own on this machine.

For a person: ``make cluster-up``, ``make kubectl ARGS='get pods -A'``, ``make cluster-down``;
``NAME=other`` for a second one beside it.

For a test: the fixtures ``cluster`` (one for the session; its name is CLUSTER_NAME, default
"test") and ``namespace`` (a new one for each test). With CLUSTER_KEEP=1 a cluster that is up is
used and left up: that saves 8 s a run while a test is written. See the class Cluster:

    def test_a_pod_runs(cluster: Cluster, namespace: str):
        cluster.apply(objects.pod("demo", command="sleep infinity"), namespace=namespace)
        cluster.wait_ready("demo", namespace)
        assert cluster.execute("demo", "hostname", namespace=namespace) == "demo\\n"

- ``cluster.enter(COMMAND...)`` runs a command as root on the node; ``cluster.kubectl`` as
  administrator; ``cluster.apply``, ``get``, ``list``, ``wait_ready``, ``audit_entries``.
- ``cluster.load_image(ARCHIVE)``: images are localhost/busybox:1 (applications), localhost/fuse:1
  (a FUSE client: tests/images/fuse-entrypoint.sh) and what ``tests.images.product`` makes.
- ``cluster.kill_container(POD, CONTAINER, SIGNAL, namespace=...)`` kills from the node, which also
  a first process without handler obeys.
- ``cluster.restart_kubelet(max_restart_period=None)``, ``stop_apiserver``, ``freeze_apiserver``.
- ``waiting.wait_for(CONDITION, WHAT)`` is the one way to wait.
- The fixture ``plugin`` is the plugin as a user deploys it, recovery on: kill(), replace(),
  upgrade(TAG), deploy(OVERLAY), status(), metrics(NAME), log(), calls() to the API server. The
  fixture ``dataset`` makes datasets of directories on the node, and ends their pods afterwards.
- ``fluid.Fluid`` does what Fluid's controllers would do with a Dataset and its runtime;
  ``csi_fluid.testbed.objectstore`` is an S3 server that pods reach.
- ``plugin.Plugin(cluster).install()`` brings the plugin of this checkout, by image and manifests.

    spec = Fluid(cluster).dataset(Spec(namespace, "demo", source="/var/lib/data"))
    cluster.apply(fluid.application("app", "demo"), namespace=namespace)

The node sees the checkout, the cache and /tmp of the machine under their own paths; its /etc, /var,
/run and /runtime-mnt are its own and live in memory. Tests here need root; each test has 180 s.
"""
