"""The one batched inference loop."""

import numpy as np
import torch

from cellcode.config import EncoderConfig
from cellcode.model import inference
from cellcode.model.encoder import Encoder

CPU = torch.device("cpu")


def test_images_are_embedded_batch_by_batch_without_gradients() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(), 16).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    images.flags.writeable = False
    made = inference.embed(encoder, images, "float32", CPU, 2)
    with torch.no_grad():
        expected = torch.cat([encoder(torch.from_numpy(images[i : i + 2].copy())) for i in (0, 2, 4)]).numpy()
    np.testing.assert_array_equal(made, expected)
    assert made.dtype == np.float32


def test_no_images_give_an_empty_array_of_the_right_width() -> None:
    made = inference.embed(Encoder(EncoderConfig(), 16).eval(), np.zeros((0, 32, 32, 3), np.uint8), "auto", CPU)
    assert made.shape == (0, 16)


def test_a_function_keeps_its_own_type() -> None:
    images = np.arange(7, dtype=np.uint8)[:, None]
    made = inference.infer(lambda batch: batch.long().sum(dim=1), images, "auto", CPU, 3)
    assert made.dtype == torch.int64
    assert made.tolist() == list(range(7))
