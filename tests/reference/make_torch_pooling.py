"""Writes torch_pooling.npz, what PyTorch computes when it pools and upsamples; tests need no PyTorch.

Run by hand: ``python tests/reference/make_torch_pooling.py``. The committed file was made with PyTorch 2.13.0 on a CPU,
in float64. Arrays are stored with features last. Each case has ``y`` and ``dx``, the gradient of ``sum(y * g)``, where
``g`` is ``cos(0, 1, 2, ...)`` in the order of ``y``; the inputs of all cases with that many axes stand beside them.
"""

import json
import pathlib

import numpy as np
import torch
from torch.nn import functional

MAX = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
MEAN = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
NORM = (functional.lp_pool1d, functional.lp_pool2d, functional.lp_pool3d)
ADAPTIVE_MAX = (functional.adaptive_max_pool1d, functional.adaptive_max_pool2d, functional.adaptive_max_pool3d)
ADAPTIVE_MEAN = (functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d)
SPACES = ((7,), (6, 5), (3, 3, 5))
WINDOWS = ((3,), (3, 2), (2, 2, 3))
STRIDES = ((2,), (2, 3), (1, 2, 2))


def cases():
    """``(name, settings, space, function of a batch [batch, features, *space])``; settings are jaxnet's arguments."""
    for space, window, strides in zip(SPACES, WINDOWS, STRIDES, strict=True):
        dims = len(space)
        for stride in (window, strides):
            for padding in (0, 1):
                for ceil in (False, True):
                    settings = {"window": window, "strides": stride, "padding": padding, "ceil": ceil}
                    torch_settings = {"kernel_size": window, "stride": stride, "padding": padding, "ceil_mode": ceil}
                    name = f"{dims}d, strides {stride}, padding {padding}, ceil {ceil}"
                    yield f"max, {name}", "max_pool", settings, space, _call(MAX, dims, torch_settings)
                    inside = torch_settings | {"count_include_pad": False}
                    yield f"avg, {name}", "avg_pool", settings, space, _call(MEAN, dims, inside)
        for p in (2, 4):  # even, since PyTorch takes no absolute value
            settings = {"window": window, "strides": strides}
            norm = {"norm_type": p, "kernel_size": window, "stride": strides}
            yield f"lp, {dims}d, {p}", "lp_pool", settings | {"p": p}, space, _call(NORM, dims, norm)
        for shape in ((2,) * dims, (3, 4, 5)[:dims]):
            settings, wanted = {"shape": shape}, {"output_size": shape}
            yield f"adaptive avg, {shape}", "adaptive_avg_pool", settings, space, _call(ADAPTIVE_MEAN, dims, wanted)
            yield f"adaptive max, {shape}", "adaptive_max_pool", settings, space, _call(ADAPTIVE_MAX, dims, wanted)
        for scale in ((2, 3, 2)[:dims], (3, 1, 4)[:dims]):
            for method, mode in (("nearest", "nearest"), ("linear", ("linear", "bilinear", "trilinear")[dims - 1])):
                settings = {"scale": scale, "method": method}
                more = {} if method == "nearest" else {"align_corners": False}
                function = _upsample(scale, mode, more)
                yield f"upsample, {scale}, {method}", "upsample", settings, space, function


def _call(functions, dims, settings):
    if dims == 1:  # these take integers
        settings = {name: value[0] if isinstance(value, tuple) else value for name, value in settings.items()}
    return lambda x: functions[dims - 1](x, **settings)


def _upsample(scale, mode, more):
    return lambda x: functional.interpolate(x, scale_factor=tuple(map(float, scale)), mode=mode, **more)


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    arrays, settings = {}, {}
    inputs = {space: torch.randn(2, 2 if len(space) < 3 else 1, *space) for space in SPACES}
    for name, layer, arguments, space, function in cases():
        x = inputs[space].clone().requires_grad_()
        y = function(x)
        y = y.movedim(1, -1)
        y.backward(torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape))
        settings[name] = [layer, f"{len(space)}d", arguments]
        arrays[f"pooling/{name}/y"] = y.detach().numpy()
        arrays[f"pooling/{name}/dx"] = x.grad.movedim(1, -1).numpy()
        arrays[f"pooling/{len(space)}d/x"] = x.detach().movedim(1, -1).numpy()
    np.savez_compressed(
        pathlib.Path(__file__).with_name("torch_pooling.npz"),
        **{name: np.ascontiguousarray(value) for name, value in arrays.items()},
        **{"pooling/settings": np.array(json.dumps(settings))},
        version=np.array(torch.__version__),
    )


if __name__ == "__main__":
    main()
