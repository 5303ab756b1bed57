import torch

from cellcode.config import AugmentationConfig
from cellcode.training.data import augmentation

STILL = AugmentationConfig(zoom=0, shift=0, rotation_deg=0, exposure=0, white_balance=0, noise=0, erase=0)


def _gradient() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    return torch.stack([x * 7, y * 9, x + y], dim=-1).to(torch.uint8)[None].repeat(16, 1, 1, 1)


def test_all_ranges_at_zero_change_nothing() -> None:
    pixels = _gradient()
    torch.testing.assert_close(augmentation.photos(pixels, STILL), pixels.float(), atol=1e-3, rtol=0)


def test_exposure_keeps_ratios_between_pixels_and_stays_in_its_range() -> None:
    torch.manual_seed(0)
    pixels = _gradient() // 4
    lit = augmentation.photos(pixels, STILL.model_copy(update={"exposure": 0.3}))
    gain = lit[:, 20, 20, 0] / pixels[:, 20, 20, 0]
    assert (gain >= 0.7 - 1e-5).all()
    assert (gain <= 1.3 + 1e-5).all()
    assert gain.std() > 0.05
    torch.testing.assert_close(lit, pixels * gain[:, None, None, None], atol=1e-2, rtol=1e-3)


def test_a_tilt_turns_the_picture_without_stretching_it() -> None:
    """A centred disc stays a disc of the same area however the frame's sides differ."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(48) - 23.5, torch.arange(96) - 47.5, indexing="ij")
    radius = torch.hypot(x, y)
    disc = (torch.sigmoid((15 - radius) / 2) * 255).to(torch.uint8)[None, ..., None].repeat(8, 1, 1, 3)
    turned = augmentation.photos(disc, STILL.model_copy(update={"rotation_deg": 45}))
    # Outside this circle the turned frame shows what is reflected at its edges, the disc among it.
    inside = radius < 23
    torch.testing.assert_close(turned[:, inside], disc[:, inside].float(), atol=4, rtol=0)


def test_erasing_covers_about_the_asked_share_of_photos() -> None:
    torch.manual_seed(0)
    pixels = torch.full((400, 24, 32, 3), 128, dtype=torch.uint8)
    erased = augmentation.photos(pixels, STILL.model_copy(update={"erase": 0.3}))
    share = (erased != 128).flatten(1).any(1).float().mean()
    assert 0.22 < share < 0.38


def test_photos_are_never_mirrored() -> None:
    torch.manual_seed(0)
    pixels = _gradient()
    changed = augmentation.photos(pixels, AugmentationConfig())
    # The red channel rises from left to right in every photo, whatever light and shift do.
    left, right = changed[:, :, :8, 0].mean((1, 2)), changed[:, :, -8:, 0].mean((1, 2))
    assert (right > left).all()


def test_the_sampling_grid_is_that_of_torch_and_exact_under_autocast() -> None:
    torch.manual_seed(0)
    theta = torch.randn(5, 2, 3)
    expected = torch.nn.functional.affine_grid(theta, [5, 1, 30, 41], align_corners=False)
    torch.testing.assert_close(augmentation.sampling_grid(theta, 30, 41), expected, atol=1e-6, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        made = augmentation.sampling_grid(theta, 30, 41)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)
