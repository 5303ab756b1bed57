"""Random augmentation of photos, on whole batches. All draws come from the generator given; each batch has its own.

Photos are never mirrored: a mirrored street is another street.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from cellcode.config import AugmentationConfig


def photos(pixels: Tensor, config: AugmentationConfig, random: Generator = torch.default_generator) -> Tensor:
    """Zoom, shift, tilt, expose, tint, add noise to and partly cover photos (B, H, W, 3); float32 in 0..255."""
    images = _move(pixels.permute(0, 3, 1, 2).float(), config, random)
    images = light(images, config.exposure, config.white_balance, random)
    if config.noise:
        # In the order of memory: drawing them through the strides of the permuted images takes six times as long.
        noise = torch.randn(pixels.shape, generator=random).permute(0, 3, 1, 2)
        noise *= 255 * config.noise * torch.rand(len(images), 1, 1, 1, generator=random)
        images = images.add_(noise)
    if config.erase:
        images = _erase(images, config.erase, random)
    return images.clamp_(0, 255).permute(0, 2, 3, 1)


def light(images: Tensor, exposure: float, white_balance: float, random: Generator = torch.default_generator) -> Tensor:
    """Scale brightness by up to `exposure` and each channel by up to `white_balance`, both as shares; (B, 3, H, W)."""
    batch = len(images)
    brightness = uniform(batch, 1, 1, 1, random=random)
    return images * ((1 + brightness * exposure) * (1 + uniform(batch, 3, 1, 1, random=random) * white_balance))


def uniform(*shape: int, random: Generator = torch.default_generator) -> Tensor:
    """Uniform draws in -1..1."""
    return torch.rand(*shape, generator=random) * 2 - 1


def _move(images: Tensor, config: AugmentationConfig, random: Generator) -> Tensor:
    batch, _, height, width = images.shape
    angle = torch.deg2rad(uniform(batch, random=random) * config.rotation_deg)
    scale = 1 + uniform(batch, random=random) * config.zoom
    cos, sin = scale * angle.cos(), scale * angle.sin()
    aspect = width / height  # affine_grid works in a square of side 2, whatever the image's shape
    rows = (
        torch.stack([cos, -sin / aspect, uniform(batch, random=random) * config.shift * 2], dim=1),
        torch.stack([sin * aspect, cos, uniform(batch, random=random) * config.shift * 2], dim=1),
    )
    grid = sampling_grid(torch.stack(rows, dim=1), height, width)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def sampling_grid(theta: Tensor, height: int, width: int) -> Tensor:
    """Return the grid (B, height, width, 2) of `torch.affine_grid` without aligned corners, from maps theta (B, 2, 3).

    Torch's own is a product of matrices: ten times as slow, and in bfloat16 under autocast, which is a sixth of a pixel off.
    """
    x = (2 * torch.arange(width) + 1) / width - 1
    y = (2 * torch.arange(height) + 1) / height - 1
    of_x, of_y, constant = theta[..., None, None].unbind(dim=2)  # each B x 2 x 1 x 1
    return (of_x * x + of_y * y[:, None] + constant).permute(0, 2, 3, 1)


def _erase(images: Tensor, share: float, random: Generator) -> Tensor:
    """Cover a random rectangle with one colour in `share` of the images, as a passing bus does."""
    batch, _, height, width = images.shape
    size = torch.rand(batch, 2, generator=random) * 0.3 + 0.1
    corner = torch.rand(batch, 2, generator=random) * (1 - size)
    y = (torch.arange(height) + 0.5)[None, :] / height
    x = (torch.arange(width) + 0.5)[None, :] / width
    in_y = (y >= corner[:, :1]) & (y < corner[:, :1] + size[:, :1])
    in_x = (x >= corner[:, 1:]) & (x < corner[:, 1:] + size[:, 1:])
    covered = in_y[:, None, :, None] & in_x[:, None, None, :] & (torch.rand(batch, 1, 1, 1, generator=random) < share)
    return torch.where(covered, torch.rand(batch, 3, 1, 1, generator=random) * 255, images)
