"""Writes torch_weights.npz: modules' state_dicts, inputs and outputs, as PyTorch has them; tests need no PyTorch.

Run by hand: ``python tests/reference/make_torch_weights.py``. The committed file was made with PyTorch 2.13.0 on a CPU,
in float64. Images are stored with channels last; everything in a state_dict is as PyTorch writes it.
"""

import pathlib

import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)


def convolutional():
    """Convolutions with and without groups and bias, batch norm after some training, a flatten, a linear layer."""
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 6, (2, 3), groups=2, bias=False), nn.Flatten(),
        nn.Linear(6 * 3 * 2, 3),
    )  # fmt: skip
    _scramble(module)
    for _ in range(3):
        module(torch.randn(8, 2, 6, 6))
    module.eval()
    x = torch.randn(5, 2, 6, 6)
    return module, x.movedim(1, -1), module(x)


def recurrent(kind):
    """Two layers, both ways, on sequences of one length."""
    module = getattr(nn, kind)(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    _scramble(module)
    x = torch.randn(2, 5, 3)
    return module, x, module(x)[0]


def normalizations():
    """Layer norm and group norm in a row."""
    module = nn.Sequential(nn.LayerNorm(4), nn.RMSNorm(4))
    _scramble(module)
    x = torch.randn(5, 4)
    return module, x, module(x)


def transposed():
    """A transposed convolution with strides, back to images."""
    module = nn.Sequential(nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1))
    _scramble(module)
    x = torch.randn(2, 3, 4, 4)
    return module, x.movedim(1, -1), module(x).movedim(1, -1)


def attention():
    """An embedding and self attention on it."""
    module = nn.ModuleDict({"table": nn.Embedding(7, 6), "attention": nn.MultiheadAttention(6, 3, batch_first=True)})
    _scramble(module)
    x = torch.randint(7, (2, 5))
    rows = module["table"](x)
    return module, x, module["attention"](rows, rows, rows, need_weights=False)[0]


def _scramble(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))


def main():
    cases = {"convolutional": convolutional(), "normalizations": normalizations()}
    cases |= {"transposed": transposed(), "attention": attention()}
    cases |= {kind.lower(): recurrent(kind) for kind in ("RNN", "GRU", "LSTM")}
    arrays = {}
    for name, (module, x, y) in cases.items():
        arrays |= {f"weights/{name}/x": x, f"weights/{name}/y": y}
        arrays |= {f"weights/{name}/state_dict/{key}": value for key, value in module.state_dict().items()}
    arrays = {key: value.detach().numpy() for key, value in arrays.items()}
    np.savez_compressed(pathlib.Path(__file__).parent / "torch_weights.npz", **arrays)


if __name__ == "__main__":
    main()
