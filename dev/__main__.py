"""``python3 -m dev COMMAND``: what the Makefile calls."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from dev import addons, binaries, control_plane, demo, images, node, packages, teardown
from dev.paths import LOGS, target
from dev.stages import TIMINGS, Stage, run_stages

GO_LANE = "go"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the process' exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m dev", description="The development cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cluster", help="build and start a single-node Kubernetes with a gateway")
    commands.add_parser("cluster-down", help="end it; what was built stays")
    commands.add_parser("demo", help="from images to predictions, on the cluster")
    commands.add_parser("packages", help="install the Debian packages that are missing")
    commands.add_parser("binaries", help="build only Kubernetes, kubectl and helm")
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
        "packages": lambda: run_stages([Stage("packages", "Debian packages", packages.install)]),
        "binaries": lambda: run_stages(binary_stages()),
        "images": lambda: build_images(parsed.names),
    }
    actions[parsed.command]()
    return 0


def cluster() -> None:
    """Bring up the cluster with all images, or check that the user's own answers."""
    if not target().is_own:
        answer = subprocess.run(["kubectl", "version", "--request-timeout=10s"], capture_output=True, text=True)
        if answer.returncode:
            raise SystemExit(f"The cluster of your kubeconfig does not answer: {answer.stderr.strip()}")
        return
    node.claim_machine()
    run_stages([*cluster_stages(), *our_image_stages()])


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
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "cluster-down.log").open("w") as log:
        teardown.take_down(log)


def build_images(names: Sequence[str]) -> None:
    """Build the named images, or all of ours."""
    if not target().is_own:
        return
    chosen = [images.by_name(name) for name in names] or list(images.OUR_IMAGES)
    run_stages([_image_stage(image, needs=()) for image in chosen])


def binary_stages() -> list[Stage]:
    """Return what the component tests need."""
    return [
        Stage("packages", "Debian packages", packages.install),
        Stage("kubernetes", "Kubernetes, helm, CoreDNS", binaries.build_kubernetes, ("packages",), GO_LANE),
    ]


def cluster_stages() -> list[Stage]:
    """Return the cluster's stages; the image builder comes first, as the largest image waits for it."""
    return [
        Stage("packages", "Debian packages", packages.install),
        Stage("base-image", "base image", images.make_base, ("packages",)),
        Stage("buildkit", "BuildKit", binaries.build_buildkit, ("packages",), GO_LANE),
        Stage("containerd", "containerd", node.start_containerd, ("packages",)),
        Stage("builder", "image builder", images.start_builder, ("buildkit", "containerd")),
        Stage("kubernetes", "Kubernetes, helm, CoreDNS", binaries.build_kubernetes, ("buildkit",), GO_LANE),
        Stage("versitygw", "S3 server", binaries.build_versitygw, ("kubernetes",), GO_LANE),
        Stage("envoy-gateway", "Envoy Gateway", binaries.build_envoy_gateway, ("versitygw",), GO_LANE),
        Stage("certificates", "certificates", control_plane.make_certificates, ("packages",)),
        Stage("control-plane", "control plane", control_plane.start, ("kubernetes", "certificates")),
        *_image_stages(),
        Stage("node", "node", node.start, ("control-plane", "containerd", "image-pause")),
        Stage("dns", "cluster DNS", addons.install_dns, ("node", "image-coredns")),
        Stage("volumes", "volumes", addons.install_volumes, ("control-plane",)),
        Stage("gateway", "gateway", addons.install_gateway, ("dns", "image-envoy-gateway", "image-envoy")),
    ]


def our_image_stages() -> list[Stage]:
    """Return the builds of our own images."""
    return [_image_stage(image, needs=("builder", "base-image")) for image in images.OUR_IMAGES]


def _image_stages() -> list[Stage]:
    built_by = {"pause": "kubernetes", "coredns": "kubernetes", "envoy": "packages"}
    return [
        _image_stage(image, needs=("builder", "base-image", built_by.get(image.name, image.name)))
        for image in (*images.SYSTEM_IMAGES, *images.GATEWAY_IMAGES)
    ]


def _image_stage(image: images.Image, *, needs: tuple[str, ...]) -> Stage:
    # Those with one binary take seconds: they do not queue behind those that install packages.
    lane = "" if image.binary else "images"
    return Stage(f"image-{image.name}", f"image {image.name}", partial(images.build, image), needs, lane)


if __name__ == "__main__":
    sys.exit(main())
