"""Writes torch_attention.npz: what PyTorch's attention and transformer layers compute, forward and gradients.

Run by hand: ``python tests/reference/make_torch_attention.py``. The committed file was made with PyTorch 2.13.0 on a
CPU, in float64. Weights are stored as PyTorch packs them; the tests unpack them.
"""

import functools
import pathlib

import numpy as np
import torch
from torch import nn

LENGTHS = torch.tensor([5, 2, 3])  # of batches of 3 with 5 time steps


def past(lengths, steps):
    return torch.arange(steps)[None] >= lengths[:, None]


def randomize(layer):
    """Biases and norms start out as constants, which would hide mistakes."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + float("norm" in name and "weight" in name))
    return layer


def record(name, layer, inputs, y, g):
    y.backward(g)
    arrays = {"y": y, "g": g, **inputs}
    arrays |= {f"d{part}": x.grad for part, x in inputs.items()}
    for part, parameter in layer.named_parameters():
        arrays |= {f"params/{part}": parameter, f"grads/{part}": parameter.grad}
    yield from ((f"attention/{name}/{part}", value) for part, value in arrays.items())


def self_attention():
    cases = {"plain": (False, None), "causal": (True, None), "lengths": (False, LENGTHS), "both": (True, LENGTHS)}
    for name, (causal, lengths) in cases.items():
        layer = randomize(nn.MultiheadAttention(6, 3, batch_first=True))
        x = torch.randn(3, 5, 6).requires_grad_()
        g = torch.randn(3, 5, 6)
        padding = None if lengths is None else past(lengths, 5)
        later = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
        y, _ = layer(x, x, x, key_padding_mask=padding, attn_mask=later, need_weights=False)
        if lengths is not None:  # outputs past the end are nobody's
            y, g = (a.masked_fill(padding[..., None], 0) for a in (y, g))
        yield from record(f"self_{name}", layer, {"x": x}, y, g)


def cross_attention():
    """A memory of its own width, length and lengths."""
    layer = randomize(nn.MultiheadAttention(4, 2, kdim=5, vdim=5, batch_first=True))
    queries, memory = torch.randn(3, 2, 4).requires_grad_(), torch.randn(3, 5, 5).requires_grad_()
    y, _ = layer(queries, memory, memory, key_padding_mask=past(LENGTHS, 5), need_weights=False)
    yield from record("cross", layer, {"queries": queries, "memory": memory}, y, torch.randn(3, 2, 4))


def block():
    for name, activation, lengths in (("relu", torch.relu, None), ("gelu", nn.functional.gelu, LENGTHS)):
        make = functools.partial(nn.TransformerEncoderLayer, 6, 2, 10, dropout=0.0, batch_first=True, norm_first=True)
        layer = randomize(make(activation=activation))
        x, g = torch.randn(3, 5, 6).requires_grad_(), torch.randn(3, 5, 6)
        padding = None if lengths is None else past(lengths, 5)
        y = layer(x, src_key_padding_mask=padding)
        if lengths is not None:
            y, g = (a.masked_fill(padding[..., None], 0) for a in (y, g))
        yield from record(f"block_{name}", layer, {"x": x}, y, g)


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    arrays = dict([*self_attention(), *cross_attention(), *block()])
    np.savez_compressed(
        pathlib.Path(__file__).with_name("torch_attention.npz"),
        **{name: np.ascontiguousarray(value.detach().numpy()) for name, value in arrays.items()},
        version=np.array(torch.__version__),
    )


if __name__ == "__main__":
    main()
