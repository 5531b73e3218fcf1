"""``python3 -m dev COMMAND``: what the Makefile calls."""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from dev import addons, binaries, control_plane, demo, images, node, packages, teardown
from dev.paths import STATE, target
from dev.stages import TIMINGS, Stage, StageError, run_stages

GO_LANE = "go"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the process' exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m dev", description="The development cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cluster", help="build and start a single-node Kubernetes with a gateway")
    commands.add_parser("cluster-down", help="end it; what was built stays")
    commands.add_parser("demo", help="from images to predictions, on the cluster")
    commands.add_parser("packages", help="install the Debian packages that are missing")
    commands.add_parser("binaries", help="build only Kubernetes, kubectl, helm and kubeconform")
    build = commands.add_parser("images", help="build all images into the cluster's store, or those named")
    build.add_argument("names", nargs="*")
    parsed = parser.parse_args(arguments)
    if os.geteuid() != 0 and target().is_own:
        print("The development cluster needs root: run it with sudo, or set CLUSTER=current.", file=sys.stderr)
        return 1
    actions: dict[str, Callable[[], None]] = {
        "cluster": cluster,
        "cluster-down": cluster_down,
        "demo": run_demo,
        "packages": install_packages,
        "binaries": build_binaries,
        "images": lambda: build_images([images.by_name(name) for name in parsed.names] or images.OUR_IMAGES),
    }
    try:
        actions[parsed.command]()
    except StageError as error:
        print(f"\n{error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130
    return 0


@contextmanager
def sole_command() -> Iterator[None]:
    """Wait until no other command builds or starts things in this checkout."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another command is at work in this checkout; waiting for its end.", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cluster() -> None:
    """Bring up the cluster with all images, or check that the user's own answers."""
    if not target().is_own:
        answer = subprocess.run(["kubectl", "version", "--request-timeout=10s"], capture_output=True, text=True)
        if answer.returncode:
            raise SystemExit(f"The cluster of your kubeconfig does not answer: {answer.stderr.strip()}")
        return
    with sole_command():
        node.claim_machine()
        if (shortage := node.disk_shortage()) is not None:
            print(shortage, flush=True)
        run_stages([*cluster_stages(), *map(_image_stage, images.OUR_IMAGES)])


def run_demo() -> None:
    """Run the example on the cluster, which is brought up first, and show each stage's time at the end."""
    start = time.monotonic()
    cluster()
    run_stages(demo.stages())
    demo.watch_until_ready()
    demo.predict_unseen()
    seconds = time.monotonic() - start
    print(f"\nThe whole took {seconds // 60:.0f} min {seconds % 60:.0f} s; each stage's seconds are in {TIMINGS}.")


def cluster_down() -> None:
    """End the cluster."""
    if not target().is_own:
        raise StageError("CLUSTER=current is yours: cluster-down ends only the development cluster")
    with sole_command():
        run_stages([Stage("cluster-down", "cluster taken down", teardown.take_down)])


def install_packages() -> None:
    """Install the Debian packages that are missing."""
    with sole_command():
        run_stages([PACKAGES])


def build_binaries() -> None:
    """Build what the component tests need."""
    kubernetes = next(stage for stage in go_stages() if stage.name == "kubernetes")
    with sole_command():
        run_stages([PACKAGES, kubernetes, KUBECONFORM])


def build_images(chosen: Sequence[images.Image]) -> None:
    """Build images into the cluster's store."""
    if not target().is_own:
        return
    go = go_stages() if any(image.binary for image in chosen) else [BUILDKIT]
    with sole_command():
        run_stages([PACKAGES, *go, *builder_stages(), *map(_image_stage, chosen)])


PACKAGES = Stage("packages", "Debian packages", packages.install)
BUILDKIT = Stage("buildkit", "BuildKit", binaries.build_buildkit, lane=GO_LANE)
KUBECONFORM = Stage("kubeconform", "kubeconform", binaries.build_kubeconform, lane=GO_LANE)


def go_stages() -> list[Stage]:
    """Return the Go builds; the image builder comes first, as the largest image waits for it."""
    builds = {
        "kubernetes": ("Kubernetes, helm, CoreDNS", binaries.build_kubernetes),
        "versitygw": ("S3 server", binaries.build_versitygw),
        "envoy-gateway": ("Envoy Gateway", binaries.build_envoy_gateway),
    }
    rest = [Stage(name, title, build, lane=GO_LANE) for name, (title, build) in builds.items()]
    return [BUILDKIT, *rest]


def builder_stages() -> list[Stage]:
    """Return what every image needs."""
    return [
        Stage("base-image", "base image", images.make_base, ("packages",)),
        Stage("container-runtime", "containerd", node.start_containerd, ("packages",)),
        Stage("base-loaded", "base image loaded", images.load_base, ("base-image", "container-runtime")),
        Stage("builder", "image builder", images.start_builder, ("buildkit", "container-runtime")),
    ]


def cluster_stages() -> list[Stage]:
    """Return the stages from a bare machine to a cluster with a gateway."""
    return [
        PACKAGES,
        *go_stages(),
        *builder_stages(),
        Stage("certificates", "certificates", control_plane.make_certificates, ("packages",)),
        Stage("control-plane", "control plane", control_plane.start, ("kubernetes", "certificates")),
        *map(_image_stage, (*images.SYSTEM_IMAGES, *images.GATEWAY_IMAGES)),
        Stage("node", "node", node.start, ("control-plane", "container-runtime", "image-pause")),
        Stage("dns", "cluster DNS", addons.install_dns, ("node", "image-coredns")),
        Stage("volumes", "volumes", addons.install_volumes, ("control-plane",)),
        Stage("gateway", "gateway", addons.install_gateway, ("dns", "image-envoy-gateway", "image-envoy")),
    ]


def _image_stage(image: images.Image) -> Stage:
    built_by = {"pause": "kubernetes", "coredns": "kubernetes"}
    binary = (built_by.get(image.name, image.name),) if image.binary else ()
    # Those with one binary take seconds: they do not queue behind those that install packages.
    lane = "" if image.binary else "images"
    needs = ("builder", "base-loaded", *binary)
    return Stage(f"image-{image.name}", f"image {image.name}", partial(images.build, image), needs, lane)


if __name__ == "__main__":
    sys.exit(main())
