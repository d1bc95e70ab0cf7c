"""Writes torch_normalization.npz: what PyTorch's normalisation layers compute, forward, states and gradients.

Run by hand: ``python tests/reference/make_torch_normalization.py``. The committed file was made with PyTorch 2.13.0 on
a CPU, in float64. Arrays are stored as jaxnet holds them: features last, weights ``[in_features, features]``.
"""

import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

STEPS = 4


def last(x):
    """``[batch, features, ...]`` to ``[batch, ..., features]``."""
    return x.movedim(1, -1)


def affine(layer):
    with torch.no_grad():
        layer.weight.copy_(1 + 0.5 * torch.randn_like(layer.weight))
        if getattr(layer, "bias", None) is not None:
            layer.bias.copy_(torch.randn_like(layer.bias))
    return layer


def gradients(layer, x, y, g):
    y.backward(g)
    yield "dscale", layer.weight.grad
    if getattr(layer, "bias", None) is not None:
        yield "doffset", layer.bias.grad
    yield "dx", x.grad


def batch_norm():
    """Several training steps, the gradients of the last, then evaluation from the same running variance as jaxnet's."""
    for name, kind, shape in (("vectors", nn.BatchNorm1d, (6, 3)), ("images", nn.BatchNorm2d, (4, 3, 5, 2))):
        momentum = 0.2  # 1 - 0.2 in jaxnet
        layer = affine(kind(3, momentum=momentum))
        yield f"batch_norm/{name}/scale", layer.weight.clone()
        yield f"batch_norm/{name}/offset", layer.bias.clone()
        inputs = 2 * torch.randn(STEPS, *shape) + torch.arange(1.0, STEPS + 1).reshape(-1, *(1,) * len(shape))
        yield f"batch_norm/{name}/inputs", inputs.movedim(2, -1)
        g = torch.randn(shape)
        for step in range(STEPS):
            x = inputs[step].clone().requires_grad_()
            y = layer(x)
            if step == STEPS - 1:
                yield f"batch_norm/{name}/y", last(y)
                yield f"batch_norm/{name}/g", last(g)
                for part, value in gradients(layer, x, y, g):
                    yield f"batch_norm/{name}/{part}", last(value) if part == "dx" else value
        yield f"batch_norm/{name}/mean", layer.running_mean
        # PyTorch's running average is of unbiased variances; the share of the initial 1 is the same in both.
        count = inputs[0].numel() // 3
        start = (1 - momentum) ** STEPS
        biased = (layer.running_var - start) * (count - 1) / count + start
        yield f"batch_norm/{name}/variance", biased
        layer.running_var.copy_(biased)
        layer.eval()
        x = torch.randn(shape)
        yield f"batch_norm/{name}/evaluation_x", last(x)
        yield f"batch_norm/{name}/evaluation_y", last(layer(x))


def others():
    layers = {
        "layer_norm/vectors": (nn.LayerNorm(5), (4, 5), False),
        "layer_norm/sequences": (nn.LayerNorm(5, eps=0.01), (2, 3, 5), False),
        "rms_norm/sequences": (nn.RMSNorm(5, eps=1e-6), (2, 3, 5), False),
        "group_norm/vectors": (nn.GroupNorm(2, 6), (4, 6), False),
        "group_norm/images": (nn.GroupNorm(3, 6), (2, 6, 4, 3), True),
        "group_norm/one": (nn.GroupNorm(1, 6), (2, 6, 4), True),
        "instance_norm/images": (nn.InstanceNorm2d(3, affine=True), (2, 3, 4, 5), True),
        "instance_norm/signals": (nn.InstanceNorm1d(3, affine=True, eps=0.01), (2, 3, 7), True),
    }
    for name, (layer, shape, features_second) in layers.items():
        affine(layer)
        to_last = last if features_second else lambda x: x
        x = (3 * torch.randn(shape) + 1).requires_grad_()
        g = torch.randn(shape)
        y = layer(x)
        arrays = {"scale": layer.weight.clone(), "x": to_last(x), "g": to_last(g), "y": to_last(y)}
        if getattr(layer, "bias", None) is not None:
            arrays["offset"] = layer.bias.clone()
        arrays |= {part: to_last(value) if part == "dx" else value for part, value in gradients(layer, x, y, g)}
        yield from ((f"{name}/{part}", value) for part, value in arrays.items())


def turned(w):
    """``[features, in, ...]`` to ``[..., in, features]``."""
    return w.movedim((1, 0), (-2, -1))


def left(hidden, weight):
    return turned(hidden._v.reshape(1, *weight.shape[1:])).flatten().clone()


def spectral():
    """Two training steps with a gradient through the second, then evaluation; ``left`` is over the weight's inputs."""
    layers = {
        "linear_1": (nn.Linear(5, 3), 1, (4, 5)),
        "linear_3": (nn.Linear(4, 6), 3, (4, 4)),
        "conv": (nn.Conv2d(2, 3, (3, 2)), 1, (2, 2, 5, 4)),
    }
    for name, (layer, iterations, shape) in layers.items():
        layer = spectral_norm(layer, n_power_iterations=iterations)
        hidden = layer.parametrizations.weight[0]
        with torch.no_grad():
            layer.parametrizations.weight.original.copy_(torch.randn_like(layer.weight))  # vectors far from converged
        weight = layer.parametrizations.weight.original

        arrays = {
            "w": turned(weight).clone(),
            "b": layer.bias,
            "left": left(hidden, weight),
            "right": hidden._u.clone(),
        }
        x = torch.randn(shape).requires_grad_()
        layer(x)
        y = layer(x)
        g = torch.randn(y.shape)
        y.backward(g)
        arrays |= {"x": last(x), "g": last(g), "y": last(y), "dw": turned(weight.grad), "dx": last(x.grad)}
        arrays |= {"db": layer.bias.grad, "left_after": left(hidden, weight), "right_after": hidden._u.clone()}
        layer.eval()
        arrays["evaluation_y"] = last(layer(x))
        yield from ((f"spectral_norm/{name}/{part}", value) for part, value in arrays.items())


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    arrays = dict([*batch_norm(), *others(), *spectral()])
    np.savez_compressed(
        pathlib.Path(__file__).with_name("torch_normalization.npz"),
        **{f"normalization/{name}": np.ascontiguousarray(value.detach().numpy()) for name, value in arrays.items()},
        version=np.array(torch.__version__),
    )


if __name__ == "__main__":
    main()
