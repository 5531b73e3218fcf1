"""Heat maps of the part of an image that a network based its answer on."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bloomery_model import Preprocess
from bloomery_model.spotlight import DIMMED
from bloomery_trainer.engine.heat_maps import HeatMaps, grad_cam
from bloomery_trainer.models.presets import PRESETS

pytestmark = pytest.mark.feature("T28")


class RedOrBlue(nn.Module):
    """Answers by the mean of red and of blue: the exact class activation map is the colour itself."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1, bias=False)
        self.features.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])[..., None, None]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.eye(2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.pool(self.features(images)).flatten(1))
        return result


def test_the_map_lies_where_the_class_is() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[0, 0, :4, :4], image[0, 2, 4:, 4:] = 2.0, 1.0
    red, blue = grad_cam(RedOrBlue().eval(), image.repeat(2, 1, 1, 1), torch.tensor([0, 1]))

    assert red[:4, :4].min() == 1
    assert red.sum() == 16
    assert blue[4:, 4:].min() == 1
    assert blue.sum() == 16


class Branches(RedOrBlue):
    """The same network with a branch of its own for each colour."""

    def __init__(self) -> None:
        super().__init__()
        self.blue = nn.Conv2d(3, 1, 1, bias=False)
        self.blue.weight.data = self.features.weight.data[1:]
        self.features = nn.Conv2d(3, 1, 1, bias=False)
        self.features.weight.data = torch.tensor([[1.0, 0, 0]])[..., None, None]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([self.features(images), self.blue(images)], 1)
        result: torch.Tensor = self.head(self.pool(joined).flatten(1))
        return result


def test_the_map_covers_all_branches_before_the_pooling() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[0, 0, :4, :4], image[0, 2, 4:, 4:] = 2.0, 1.0
    maps = [grad_cam(network.eval(), image, torch.tensor([0])) for network in (RedOrBlue(), Branches())]

    assert torch.equal(*maps)
    assert maps[0].sum() == 16


def test_a_class_that_nothing_speaks_for_has_an_empty_map() -> None:
    assert grad_cam(RedOrBlue().eval(), torch.zeros(1, 3, 8, 8), torch.tensor([0])).sum() == 0


@pytest.mark.parametrize("name", ["resnet18", "mobilenet-v2", "mobilenet-v3-small", "efficientnet-b0", "googlenet"])
def test_networks_of_each_family_have_a_map(name: str) -> None:
    torch.manual_seed(0)
    model = PRESETS[name].build(3, image_size=96).eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    (heat_map,) = grad_cam(model, torch.randn(1, 3, 96, 96), torch.tensor([1]))

    assert heat_map.shape == (3, 3)
    assert torch.isfinite(heat_map).all()
    assert heat_map.max() in (0, 1)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_picture_is_bright_where_the_network_looked() -> None:
    image = Image.new("RGB", (64, 64), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 32, 32))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    preprocess = Preprocess(resize=64, crop=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    pixels = np.asarray(HeatMaps(RedOrBlue().eval(), preprocess).picture(buffer.getvalue(), 0))

    assert pixels[8, 8, 0] > 250
    assert pixels[60, 60, 2] == pytest.approx(255 * DIMMED, abs=2)
