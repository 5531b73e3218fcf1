"""etcd, the API server, the controller manager and the scheduler, with certificates of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TextIO

from dev import processes
from dev.paths import BIN, KUBECONFIG, PKI, STATE
from dev.stages import run, wait_until

NODE_IP = "10.90.0.1"
API_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
SERVICE_CIDR = "10.96.0.0/16"
POD_CIDR = "10.244.0.0/24"
NODE_PORT_RANGE = "30000-32767"
API_PORT = 6443
_DAYS = "3650"


def make_certificates(log: TextIO) -> None:
    """Make a certificate authority, and what the API server and its clients identify themselves with."""
    if KUBECONFIG.exists():
        return
    PKI.mkdir(parents=True, exist_ok=True)
    _openssl(log, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", _DAYS, "-subj", "/CN=bloomery-dev",
             "-keyout", PKI / "ca.key", "-out", PKI / "ca.crt")  # fmt: skip
    names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    addresses = ("127.0.0.1", NODE_IP, API_IP)
    alternatives = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses)])
    _certificate(log, "apiserver", "/CN=kube-apiserver", alternatives)
    _certificate(log, "admin", "/O=system:masters/CN=admin", "DNS:admin")
    _certificate(log, "kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client", "DNS:apiserver")
    _openssl(log, "genrsa", "-out", PKI / "service-accounts.key", "2048")
    _openssl(log, "rsa", "-in", PKI / "service-accounts.key", "-pubout", "-out", PKI / "service-accounts.pub")
    KUBECONFIG.write_text(_kubeconfig())


def start(log: TextIO) -> None:
    """Start the control plane and wait until the API server is ready."""
    del log
    processes.start(
        "etcd",
        [
            "etcd",
            f"--data-dir={STATE / 'etcd'}",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            # A power cut may cost this cluster its state; waiting for a slow disk costs every test.
            "--unsafe-no-fsync",
        ],
    )
    processes.start("kube-apiserver", _apiserver())
    wait_until("The API server", lambda: processes.is_up("kube-apiserver", is_ready), seconds=300)
    processes.start(
        "kube-controller-manager",
        [
            BIN / "kube-controller-manager",
            f"--kubeconfig={KUBECONFIG}",
            f"--service-account-private-key-file={PKI / 'service-accounts.key'}",
            f"--root-ca-file={PKI / 'ca.crt'}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--allocate-node-cidrs=false",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
        ],
    )
    processes.start(
        "kube-scheduler",
        [
            BIN / "kube-scheduler",
            f"--kubeconfig={KUBECONFIG}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ],
    )


def is_ready() -> bool:
    """Whether the API server says that it is ready."""
    command = [str(BIN / "kubectl"), f"--kubeconfig={KUBECONFIG}", "get", "--raw", "/readyz", "--request-timeout=3s"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _apiserver() -> list[str | Path]:
    return [
        BIN / "kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--service-node-port-range={NODE_PORT_RANGE}",
        f"--secure-port={API_PORT}",
        f"--advertise-address={NODE_IP}",
        # The node's name is in no DNS.
        "--kubelet-preferred-address-types=InternalIP",
        f"--tls-cert-file={PKI / 'apiserver.crt'}",
        f"--tls-private-key-file={PKI / 'apiserver.key'}",
        f"--client-ca-file={PKI / 'ca.crt'}",
        f"--service-account-key-file={PKI / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={PKI / 'service-accounts.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        f"--kubelet-client-certificate={PKI / 'kubelet-client.crt'}",
        f"--kubelet-client-key={PKI / 'kubelet-client.key'}",
        "--allow-privileged=true",
        # Policies that change pods as injectors of sidecars and OpenShift do, for tests of such clusters.
        "--feature-gates=MutatingAdmissionPolicy=true",
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
    ]


def _certificate(log: TextIO, name: str, subject: str, alternatives: str) -> None:
    request, extensions = PKI / f"{name}.csr", PKI / f"{name}.ext"
    extensions.write_text(f"subjectAltName={alternatives}\n")
    _openssl(log, "req", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout", PKI / f"{name}.key",
             "-out", request)  # fmt: skip
    _openssl(log, "x509", "-req", "-in", request, "-CA", PKI / "ca.crt", "-CAkey", PKI / "ca.key", "-CAcreateserial",
             "-days", _DAYS, "-extfile", extensions, "-out", PKI / f"{name}.crt")  # fmt: skip


def _openssl(log: TextIO, *words: str | Path) -> None:
    run(["openssl", *words], log)


def _kubeconfig() -> str:
    return f"""\
apiVersion: v1
kind: Config
current-context: bloomery-dev
clusters:
- name: bloomery-dev
  cluster: {{server: "https://127.0.0.1:{API_PORT}", certificate-authority: {PKI / "ca.crt"}}}
users:
- name: admin
  user: {{client-certificate: {PKI / "admin.crt"}, client-key: {PKI / "admin.key"}}}
contexts:
- name: bloomery-dev
  context: {{cluster: bloomery-dev, user: admin}}
"""
