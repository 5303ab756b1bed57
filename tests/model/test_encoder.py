from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cellcode.config import AggregationConfig, EncoderConfig
from cellcode.errors import UsageError
from cellcode.model.encoder import Encoder

AGGREGATIONS = ["mean", "gem", "flatten", "optimal_transport"]


def _encoder(aggregation: str = "gem", backbone: str = "tiny", dim: int = 16) -> Encoder:
    torch.manual_seed(0)
    parts = AggregationConfig(name=aggregation, clusters=4, cluster_dim=8, token_dim=8)
    return Encoder(EncoderConfig(backbone=backbone, pretrained=False, aggregation=parts), dim)


def _photos(count: int = 4, height: int = 32, width: int = 48, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> str:
    transformers = pytest.importorskip("transformers")
    folder: Path = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_embeddings_are_unit_vectors_in_float32(aggregation: str) -> None:
    made = _encoder(aggregation).eval()(_photos()).detach()
    assert made.shape == (4, 16)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.norm(dim=1), torch.ones(4))
    assert (made[0] - made[1]).norm() > 1e-3


def test_embeddings_stay_in_float32_under_autocast() -> None:
    encoder = _encoder("optimal_transport").eval()
    exact = encoder(_photos()).detach()
    with torch.autocast("cpu", torch.bfloat16):
        made = encoder(_photos()).detach()
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.norm(dim=1), torch.ones(4), atol=1e-5, rtol=0)
    assert ((made * exact).sum(1) > 0.99).all()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_bytes_and_floats_of_the_same_photo_agree(aggregation: str) -> None:
    encoder, photos = _encoder(aggregation).eval(), _photos()
    torch.testing.assert_close(encoder(photos.float()), encoder(photos), atol=0, rtol=0)


def test_pixels_are_normalised_with_the_backbones_mean_and_deviation() -> None:
    encoder, photos = _encoder(), _photos()
    made = encoder.prefix(photos, 0)
    mean, std = torch.tensor(encoder.backbone.mean), torch.tensor(encoder.backbone.std)
    expected = (photos.float() / 255 - mean) / std
    torch.testing.assert_close(made, expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["tiny", "efficientnet-lite0", "dinov2"])
def test_prefix_and_rest_together_are_the_whole_encoder(backbone: str, request: pytest.FixtureRequest) -> None:
    name = request.getfixturevalue("dinov2") if backbone == "dinov2" else backbone
    encoder, photos = _encoder("optimal_transport", name).eval(), _photos(2)
    blocks = len(encoder.backbone.blocks)
    with torch.inference_mode():
        whole = encoder(photos)
        for stop in {0, 1, blocks // 2, blocks}:
            torch.testing.assert_close(
                encoder.from_prefix(encoder.prefix(photos, stop), stop), whole, atol=1e-6, rtol=0
            )


def test_an_embedding_does_not_depend_on_its_batch() -> None:
    encoder, photos = _encoder().eval(), _photos(6)
    with torch.inference_mode():
        whole = encoder(photos)
        alone = torch.cat([encoder(photo[None]) for photo in photos])
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=1e-4)


def _step(encoder: Encoder, photos: Tensor) -> None:
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)
    target = torch.nn.functional.normalize(torch.randn(len(photos), encoder.dim), dim=1)
    (encoder(photos) * target).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("backbone", ["tiny", "efficientnet-lite0", "dinov2"])
@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_frozen_blocks_keep_weights_and_statistics_and_the_others_learn(
    backbone: str, part: float, request: pytest.FixtureRequest
) -> None:
    name = request.getfixturevalue("dinov2") if backbone == "dinov2" else backbone
    encoder, photos = _encoder("gem", name), _photos(2, 48, 48)
    frozen = round(part * len(encoder.backbone.blocks))
    encoder.freeze(frozen)
    encoder.eval()
    encoder.train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    _step(encoder, photos)
    changed = {key for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])}
    for number in range(len(encoder.backbone.blocks)):
        inside = {key for key in changed if key.startswith(f"backbone.blocks.{number}.")}
        assert bool(inside) == (number >= frozen), number
    assert {"projection.weight", "projection.bias", "aggregation.p"} <= changed


def test_freezing_leaves_other_blocks_in_training_mode() -> None:
    encoder = _encoder().train()
    encoder.freeze(1)
    norms = [m.training for m in encoder.backbone.blocks[0].modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [False]
    assert all(m.training for block in encoder.backbone.blocks[1:] for m in block.modules())
    assert encoder.training
    encoder.eval()
    assert not any(module.training for module in encoder.modules())


def test_a_prefix_of_frozen_blocks_is_the_same_in_training_mode() -> None:
    encoder, photos = _encoder(), _photos()
    encoder.freeze(2)
    with torch.no_grad():
        evaluated = encoder.eval().prefix(photos, 2)
        torch.testing.assert_close(encoder.train().prefix(photos, 2), evaluated, atol=0, rtol=0)
        later = encoder.eval().prefix(photos, 3)
        assert not torch.allclose(encoder.train().prefix(photos, 3), later, atol=1e-3)


def test_an_encoder_with_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown backbone"):
        _encoder(backbone="Tiny")


def _scaled(aggregation: str = "mean", scales: int = 3) -> Encoder:
    torch.manual_seed(0)
    parts = AggregationConfig.model_validate({"name": aggregation})
    return Encoder(EncoderConfig(backbone="tiny", aggregation=parts), 16, scales)


@pytest.mark.parametrize("aggregation", ["mean", "flatten"])
def test_scales_share_the_backbone_and_are_concatenated_before_the_projection(aggregation: str) -> None:
    encoder = _scaled(aggregation).eval()
    images = torch.stack([_photos(seed=seed) for seed in range(3)], dim=1)  # B x S x H x W x 3
    with torch.no_grad():
        parts = [
            encoder.aggregation(
                encoder.backbone(((images[:, s].float() - encoder.mean) / encoder.std).permute(0, 3, 1, 2))
            )
            for s in range(3)
        ]
        expected = torch.nn.functional.normalize(encoder.projection(torch.cat(parts, dim=1)), dim=1)
        torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=0)
        for stop in range(4):
            torch.testing.assert_close(
                encoder.from_prefix(encoder.prefix(images, stop), stop), expected, atol=1e-5, rtol=0
            )


def test_one_scale_is_the_same_encoder_with_the_same_weights_and_names() -> None:
    one, plain = (
        _scaled(scales=1),
        _scaled(scales=1).__class__(EncoderConfig(aggregation=AggregationConfig(name="mean")), 16),
    )
    assert {name: value.shape for name, value in one.state_dict().items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    several = _scaled(scales=3).state_dict()
    assert several.keys() == one.state_dict().keys()
    assert several["projection.weight"].shape == (16, 3 * one.projection.in_features)


def test_a_gradient_reaches_every_scale_and_every_weight() -> None:
    encoder = _scaled().train()
    images = torch.stack([_photos(seed=seed) for seed in range(3)], dim=1).float().requires_grad_()
    encoder(images)[:, 0].sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name
