"""Writes torch_convolution.npz: convolutions and transposed convolutions by PyTorch, with all gradients.

Run by hand: ``python tests/reference/make_torch_convolution.py``. The committed file was made with PyTorch 2.13.0 on a
CPU, in float64. Arrays are stored as jaxnet holds them: features last, weights ``[*kernel, in_features / groups,
features]``. Gradients are those of ``sum(y * g)``. The layer's arguments stand with each case, as text.
"""

import pathlib

import numpy as np
import torch
from torch import nn

# space, in_features, features, kernel, and the other arguments in PyTorch's words
CONVOLUTIONS = {
    "1d": ((7,), 3, 4, (3,), {}),
    "1d_one_place": ((5,), 3, 2, (1,), {"stride": 2}),
    "1d_no_bias": ((7,), 3, 2, (2,), {"bias": False}),
    "1d_causal": ((7,), 2, 3, (3,), {"dilation": 2, "padding": 4}),  # of which the first 7 outputs
    "2d": ((6, 5), 3, 4, (3, 2), {}),
    "2d_strides": ((7, 6), 2, 3, (3, 2), {"stride": (2, 3)}),
    "2d_padding": ((5, 4), 2, 3, (3, 2), {"padding": (2, 1)}),
    "2d_same": ((5, 6), 2, 3, (3, 4), {"padding": "same", "dilation": (1, 2)}),
    "2d_dilation": ((8, 7), 2, 3, (3, 2), {"dilation": (2, 3)}),
    "2d_all": ((9, 8), 2, 3, (3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 3)}),
    "2d_groups": ((5, 6), 4, 6, (2, 3), {"groups": 2, "padding": 1, "stride": (1, 2)}),
    "2d_depthwise": ((6, 5), 3, 6, (3, 2), {"groups": 3, "stride": 2, "padding": 1}),
    "3d": ((4, 5, 3), 2, 3, (2, 3, 2), {}),
    "3d_all": (
        (5, 4, 6),
        2,
        4,
        (2, 3, 2),
        {"stride": (1, 2, 2), "padding": (1, 0, 2), "dilation": (2, 1, 3), "groups": 2},
    ),
    **{
        f"{dims}d_{mode}": (
            space[:dims],
            2,
            3,
            (3, 2, 2)[:dims],
            {"padding": (2, 1, 1)[:dims], "padding_mode": mode, **more},
        )
        for mode, more in (("reflect", {}), ("replicate", {"stride": 2}), ("circular", {"dilation": 2}))
        for dims, space in ((1, (6,)), (2, (6, 4)), (3, (5, 3, 4)))
    },
}
TRANSPOSED = {
    "1d": ((5,), 3, 2, (3,), {}),
    "1d_output_padding": ((4,), 2, 3, (3,), {"stride": 3, "output_padding": 2, "padding": 1}),
    "1d_wide_output_padding": ((4,), 2, 3, (2,), {"stride": 2, "dilation": 4, "output_padding": 3}),
    "2d": ((4, 3), 3, 2, (2, 3), {"bias": False}),
    "2d_strides": ((4, 3), 2, 3, (3, 2), {"stride": (2, 3)}),
    "2d_padding": ((5, 4), 2, 3, (3, 4), {"padding": (1, 2)}),
    "2d_all": (
        (4, 3),
        2,
        3,
        (3, 2),
        {"stride": (2, 3), "padding": (1, 2), "output_padding": (1, 2), "dilation": (2, 3)},
    ),
    "3d_all": (
        (2, 3, 3),
        2,
        3,
        (3, 2, 2),
        {"stride": (1, 2, 3), "padding": (1, 0, 1), "output_padding": (0, 1, 2), "dilation": (2, 1, 1)},
    ),
}


def features_last(array):
    return torch.movedim(array, 1, -1)


def cases(topic, table, layers, to_ours):
    for name, (space, in_features, features, kernel, options) in table.items():
        layer = layers[len(space)](in_features, features, kernel, **options)
        x = torch.randn(2, in_features, *space).requires_grad_()
        y = layer(x)
        g = torch.randn(*y.shape)
        y.backward(g)
        arrays = {"x": features_last(x), "g": features_last(g), "y": features_last(y), "dx": features_last(x.grad)}
        arrays |= {"w": to_ours(layer.weight), "dw": to_ours(layer.weight.grad)}
        if layer.bias is not None:
            arrays |= {"b": layer.bias, "db": layer.bias.grad}
        arrays = {key: value.detach().numpy() for key, value in arrays.items()}
        arrays["arguments"] = np.array(repr({"features": features, "kernel": kernel, **options}))
        yield from ((f"convolution/{topic}/{name}/{key}", value) for key, value in arrays.items())


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    plain = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    transposed = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    arrays = dict(
        [
            *cases("plain", CONVOLUTIONS, plain, lambda w: torch.movedim(w, (1, 0), (-2, -1))),
            *cases("transposed", TRANSPOSED, transposed, lambda w: torch.movedim(w, (0, 1), (-2, -1))),
        ]
    )
    np.savez_compressed(
        pathlib.Path(__file__).with_name("torch_convolution.npz"),
        **{name: np.asarray(value, order="C") for name, value in arrays.items()},
        version=np.array(torch.__version__),
    )


if __name__ == "__main__":
    main()
