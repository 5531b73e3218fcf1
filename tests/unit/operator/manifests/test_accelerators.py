"""Accelerators that a variant requests: the image that computes on them, and those that nothing computes on."""

from __future__ import annotations

import pytest

from bloomery_operator.api.base import Resources
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.manifests.accelerators import unused_accelerators
from bloomery_operator.manifests.deployment import build_deployment
from tests.unit.operator.samples import inference_service, settings

pytestmark = pytest.mark.feature("S16")


def image_for(limits: dict[str, object]) -> str:
    service = inference_service(further={"v1": {"resources": {"limits": limits}}})
    deployment = build_deployment(
        service, service.spec.variants[0], ServedModel(uri="s3://m"), settings(serving_gpu_image="gpu:1"), replicas=1
    )
    image: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


@pytest.mark.parametrize(
    ("limits", "image"),
    [
        ({"nvidia.com/gpu": 1}, "gpu:1"),
        ({"nvidia.com/mig-1g.10gb": "1"}, "gpu:1"),
        ({"nvidia.com/gpu.shared": 2}, "gpu:1"),
        ({"nvidia.com/gpu": 0}, "example/serving:1"),
        ({"nvidia.com/gpu": "0"}, "example/serving:1"),
        ({"amd.com/gpu": 1}, "example/serving:1"),
        ({"cpu": 2, "memory": "4Gi"}, "example/serving:1"),
    ],
)
def test_nvidia_gpus_and_slices_of_them_get_the_image_with_cuda(limits: dict[str, object], image: str) -> None:
    assert image_for(limits) == image


@pytest.mark.parametrize(
    ("limits", "unused"),
    [
        ({"nvidia.com/gpu": 1, "nvidia.com/mig-1g.10gb": 1, "cpu": 2}, ()),
        ({"amd.com/gpu": 1}, ("amd.com/gpu",)),
        ({"gpu.intel.com/i915": 1, "habana.ai/gaudi": 1}, ("gpu.intel.com/i915", "habana.ai/gaudi")),
        ({"aws.amazon.com/neuron": 1, "google.com/tpu": 4}, ("aws.amazon.com/neuron", "google.com/tpu")),
        ({"amd.com/gpu": 0}, ()),
        ({"rdma/hca": 1, "smarter-devices/fuse": 1, "hugepages-2Mi": "4Mi", "ephemeral-storage": "1Gi"}, ()),
    ],
)
def test_accelerators_of_other_vendors_are_named(limits: dict[str, str | int], unused: tuple[str, ...]) -> None:
    assert unused_accelerators(Resources(limits=limits)) == unused
