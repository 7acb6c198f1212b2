"""The command line and the files of each program of Kubernetes, as data."""

import json

import yaml

from tests.cluster.credentials import SERVICE_IP
from tests.cluster.settings import BIN, FILES, NODE_NAME, KubeletSettings, Place

GATES = "CSIVolumeHealth=true"
Command = tuple[str, ...]


def containerd() -> Command:
    """Return the command of containerd."""
    return ("containerd", "--config", str(FILES / "containerd.toml"))


def etcd(place: Place) -> Command:
    """Return the command of etcd; its data lives in the node's memory."""
    return (
        str(BIN / "etcd"),
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    )


def apiserver(place: Place, node_ip: str) -> Command:
    """Return the command of the API server."""
    secrets = place.secrets
    return (
        str(BIN / "kube-apiserver"),
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        "--secure-port=443",  # so that the service address needs no kube-proxy
        f"--advertise-address={node_ip}",
        f"--service-cluster-ip-range={SERVICE_IP.rpartition('.')[0]}.0/24",
        f"--tls-cert-file={secrets}/apiserver.crt",
        f"--tls-private-key-file={secrets}/apiserver.key",
        f"--client-ca-file={secrets}/ca.crt",
        f"--token-auth-file={secrets}/tokens.csv",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-account-key-file={secrets}/sa.pub",
        f"--service-account-signing-key-file={secrets}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--kubelet-preferred-address-types=InternalIP",  # node names are in no DNS
        "--enable-aggregator-routing=true",  # webhooks by service, without kube-proxy
        f"--feature-gates={GATES}",
        f"--audit-policy-file={FILES}/audit.yaml",
        f"--audit-log-path={place.logs}/audit.log",
    )


def controllers(place: Place) -> Command:
    """Return the command of the controller manager."""
    secrets = place.secrets
    return (
        str(BIN / "kube-controller-manager"),
        f"--kubeconfig={secrets}/kcm.conf",
        f"--authentication-kubeconfig={secrets}/kcm.conf",
        f"--authorization-kubeconfig={secrets}/kcm.conf",
        "--use-service-account-credentials=true",
        f"--root-ca-file={secrets}/ca.crt",
        f"--service-account-private-key-file={secrets}/sa.key",
        "--kube-api-qps=200",  # by default its start, and the first ServiceAccount, take 5 s more
        "--kube-api-burst=400",
        "--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins",
        "--leader-elect=false",
    )


def scheduler(place: Place) -> Command:
    """Return the command of the scheduler."""
    config = f"{place.secrets}/scheduler.conf"
    return (
        str(BIN / "kube-scheduler"),
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--leader-elect=false",
    )


def kubelet(place: Place, node_ip: str) -> Command:
    """Return the command of the kubelet."""
    return (
        str(BIN / "kubelet"),
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        f"--config={place.folder}/kubelet.yaml",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={node_ip}",
    )


def kubelet_config(place: Place, settings: KubeletSettings) -> str:
    """Return the text of the kubelet's configuration file."""
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},  # the network has no one else on it
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{place.cgroup}",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "evictionHard": {"memory.available": "50Mi"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "featureGates": {"CSIVolumeHealth": True},
        "imageGCHighThresholdPercent": 100,  # a full disk must not cost us the imported images
        "maxPods": 150,
        "registerNode": True,
        "resolvConf": "/etc/resolv.conf",
        "syncFrequency": settings.sync_frequency,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "volumeStatsAggPeriod": settings.volume_stats_period,
    }
    if settings.max_restart_period is not None:
        config["crashLoopBackOff"] = {"maxContainerRestartPeriod": settings.max_restart_period}
    return yaml.safe_dump(config)


def cni_config(pod_subnet: str) -> str:
    """Return the configuration of the pods' network."""
    plugin = {
        "type": "ptp",
        "ipam": {
            "type": "host-local",
            "subnet": pod_subnet,
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [plugin]})
