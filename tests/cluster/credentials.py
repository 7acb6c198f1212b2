"""Certificates, tokens and kubeconfigs of a cluster, made new each time."""

import base64
import subprocess
from pathlib import Path

import yaml

from tests.cluster.settings import NODE_NAME, Place

SERVICE_IP = "10.96.0.1"
ADMIN_TOKEN = "admin-token"
# token, user, uid, groups: Node and RBAC authorization see real identities
TOKENS = (
    f'{ADMIN_TOKEN},admin,admin,"system:masters"\n'
    "kcm-token,system:kube-controller-manager,kcm\n"
    "scheduler-token,system:kube-scheduler,scheduler\n"
)


def make(place: Place, node_ip: str) -> None:
    """Write everything that a start of the control plane and of the kubelet needs."""
    folder = place.secrets
    folder.mkdir(mode=0o700)
    (folder / "tokens.csv").write_text(TOKENS)
    _key(folder, "ca")
    _openssl(
        *("req", "-x509", "-new", "-key", folder / "ca.key", "-days", "30", "-subj", "/CN=ca"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", folder / "ca.crt"),
    )
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
    addresses = ("127.0.0.1", SERVICE_IP, node_ip)
    alternatives = [f"DNS:{name}" for name in names] + [f"IP:{ip}" for ip in addresses]
    san = "subjectAltName=" + ",".join(alternatives)
    _certificate(folder, "apiserver", "/CN=kube-apiserver", san)
    _certificate(
        folder,
        "kubelet",
        f"/O=system:nodes/CN=system:node:{NODE_NAME}",
        "extendedKeyUsage=clientAuth",
    )
    _openssl("genrsa", "-out", folder / "sa.key", "2048")
    _openssl("rsa", "-in", folder / "sa.key", "-pubout", "-out", folder / "sa.pub")
    server = f"https://{node_ip}"
    _kubeconfig(place, "admin", server, {"token": ADMIN_TOKEN})
    _kubeconfig(place, "kcm", server, {"token": "kcm-token"})
    _kubeconfig(place, "scheduler", server, {"token": "scheduler-token"})
    # As kubeadm leaves it: certificate and key in one file, which the kubelet replaces in time.
    both = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    pem = (folder / "kubelet.crt").read_text() + (folder / "kubelet.key").read_text()
    (folder / "kubelet-client.pem").write_text(pem)
    client = {"client-certificate": both, "client-key": both}
    _kubeconfig(place, "kubelet", server, client, authority="inline")


def serve(place: Place, name: str, ip: str) -> tuple[Path, Path]:
    """Return certificate and key, signed by the cluster's authority, of a server at an address."""
    extension = f"subjectAltName=IP:{ip}"
    _certificate(place.secrets, name, f"/CN={name}", extension)
    return place.secrets / f"{name}.crt", place.secrets / f"{name}.key"


def _certificate(folder: Path, name: str, subject: str, extension: str) -> None:
    _key(folder, name)
    _openssl(
        *("req", "-x509", "-new", "-key", folder / f"{name}.key", "-days", "30"),
        *("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-subj", subject),
        *("-addext", "basicConstraints=critical,CA:FALSE", "-addext", extension),
        *("-out", folder / f"{name}.crt"),
    )


def _key(folder: Path, name: str) -> None:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / f"{name}.key")


def _kubeconfig(
    place: Place, name: str, server: str, user: dict[str, str], authority: str = "file"
) -> None:
    ca = place.secrets / "ca.crt"
    cluster = {"server": server, "certificate-authority": str(ca)}
    if authority == "inline":
        data = base64.b64encode(ca.read_bytes()).decode()
        cluster = {"server": server, "certificate-authority-data": data}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": "cluster", "user": name}}],
        "current-context": name,
    }
    (place.secrets / f"{name}.conf").write_text(yaml.safe_dump(config))


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(("openssl", *arguments), check=True, capture_output=True, timeout=30)
