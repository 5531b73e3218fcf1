"""Heat maps: where in an image a network found what it answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from bloomery_model import Preprocess, decode
from bloomery_model.spotlight import spotlight
from bloomery_trainer.data.decoders import normalise, to_tensor


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Compute a class activation map for each image by gradients (Grad-CAM, arXiv:1610.02391).

    Where the network ends in pooling and one linear layer, this is the exact class activation map (arXiv:1512.04150).

    Args:
        model: in evaluation mode, on the CPU.
        images: normalised, float32 [N, 3, H, W].
        classes: the answer to explain, int64 [N].

    Returns:
        float32 [N, h, w] at the size of the last feature map, 0 to 1; all 0 where nothing speaks for the class.
    """
    features: list[Tensor] = []

    def keep(tensor: object) -> None:
        if isinstance(tensor, Tensor) and tensor.dim() == 4 and tensor.shape[-1] * tensor.shape[-2] > 1:
            features[:] = [tensor]

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(lambda _, __, output: keep(output)) for module in leaves]
    # Branches that are joined are no module's output, but the input of the pooling.
    handles += [module.register_forward_pre_hook(lambda _, inputs: keep(inputs[0])) for module in leaves]
    try:
        with torch.enable_grad():
            logits = model(images.detach().requires_grad_())
            chosen = logits.gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, features[0])
    finally:
        for handle in handles:
            handle.remove()
    maps = (gradient.mean(dim=(2, 3), keepdim=True) * features[0]).sum(dim=1).clamp_min(0).detach()
    largest = maps.amax(dim=(1, 2), keepdim=True)
    return maps / largest.clamp_min(torch.finfo(maps.dtype).tiny)


@dataclass(frozen=True)
class HeatMaps:
    """Pictures of what a network saw, bright where it looked and dark elsewhere."""

    model: nn.Module
    preprocess: Preprocess

    def picture(self, data: bytes, answer: int) -> Image.Image:
        """Return the part of an image file that the network saw, for one of its answers."""
        pixels = self.preprocess.pixels(decode(data, min_side=self.preprocess.min_decode_side))
        images = normalise(to_tensor(pixels)[None], self.preprocess)
        (heat,) = grad_cam(self.model, images, torch.tensor([answer])).numpy()
        return spotlight(pixels, heat)


PictureOf = Callable[[bytes, int], Image.Image]
"""Makes a picture for an image file and an answer."""
