"""Writes torch_recurrent.npz, what PyTorch's recurrent layers compute for packed sequences of different lengths.

Run by hand: ``python tests/reference/make_torch_recurrent.py``. The committed file was made with PyTorch 2.13.0 on a
CPU, in float64. Weights are stored as jaxnet holds them: ``w`` ``[in_features, gates * units]``, ``u``
``[units, gates * units]``, one bias ``b`` (the sum of PyTorch's two, with no forget bias), and the GRU's ``b_u``.
Gates come in the same order in both.
"""

import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

FEATURES, UNITS, TIME = 3, 4, 5
LENGTHS = torch.tensor([3, 5, 1, 4])
CELLS = {
    "rnn_tanh": lambda **settings: nn.RNN(FEATURES, UNITS, nonlinearity="tanh", **settings),
    "rnn_relu": lambda **settings: nn.RNN(FEATURES, UNITS, nonlinearity="relu", **settings),
    "gru": lambda **settings: nn.GRU(FEATURES, UNITS, **settings),
    "lstm": lambda **settings: nn.LSTM(FEATURES, UNITS, **settings),
}
STACKS = {
    "one": {"num_layers": 1, "bidirectional": False},
    "two": {"num_layers": 2, "bidirectional": False},
    "bidirectional": {"num_layers": 1, "bidirectional": True},
    "two_bidirectional": {"num_layers": 2, "bidirectional": True},
}


def weights(net, cell, layer, direction, of):
    """One cell's parameters (``of`` gives them) or gradients (``of`` gives those) in jaxnet's form."""
    suffix = f"l{layer}{'_reverse' if direction else ''}"
    w, u, b, b_u = (of(getattr(net, f"{name}_{suffix}")) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    arrays = {"w": w.T, "u": u.T}
    gradients = of is gradient  # both biases of a sum have the sum's gradient
    if cell != "gru":
        return arrays | {"b": b if gradients else b + b_u}
    reset_and_update = torch.arange(3 * UNITS) < 2 * UNITS
    return arrays | {"b": b if gradients else b + b_u * reset_and_update, "b_u": b_u[2 * UNITS :]}


def gradient(parameter):
    return parameter.grad


def value(parameter):
    return parameter.detach()


def case(normal, cell, settings):
    """Outputs, final states and the gradients of ``sum(y * g) + sum(state * g_state)``, from given states."""
    net = CELLS[cell](batch_first=True, **settings)
    cells = settings["num_layers"] * (1 + settings["bidirectional"])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.6 * normal(*parameter.shape))
    x = normal(len(LENGTHS), TIME, FEATURES).requires_grad_()
    starts = [normal(cells, len(LENGTHS), UNITS).requires_grad_() for _ in range(2 if cell == "lstm" else 1)]
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    y, finals = net(packed, tuple(starts) if cell == "lstm" else starts[0])
    y, _ = pad_packed_sequence(y, batch_first=True, total_length=TIME)
    finals = finals if cell == "lstm" else (finals,)
    g, g_finals = normal(*y.shape), [normal(*final.shape) for final in finals]
    (torch.sum(y * g) + sum(torch.sum(a * b) for a, b in zip(finals, g_finals, strict=True))).backward()

    # One array for what all cells of a stack, or all arrays of a state, have: it's the number of arrays that makes the
    # file large. States are [arrays, layers * directions, batch, units].
    arrays = {"x": x, "g": g, "y": y, "dx": x.grad}
    arrays |= {"start": torch.stack(starts), "final": torch.stack(finals), "g_final": torch.stack(g_finals)}
    arrays |= {"d_start": torch.stack([start.grad for start in starts])}
    for layer in range(settings["num_layers"]):
        of_layer = [(d, value, "") for d in range(1 + settings["bidirectional"])]
        of_layer += [(d, gradient, "d") for d, _, _ in of_layer]
        for direction, of, prefix in of_layer:
            made = weights(net, cell, layer, direction, of)
            arrays |= {f"{layer}/{direction}/{prefix}{name}": array for name, array in made.items()}
    return arrays


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    arrays = {"recurrent/lengths": LENGTHS}
    for cell in CELLS:
        for stack, settings in STACKS.items():
            made = case(torch.randn, cell, settings)
            arrays |= {f"recurrent/{cell}/{stack}/{name}": array for name, array in made.items()}
    np.savez_compressed(
        pathlib.Path(__file__).with_name("torch_recurrent.npz"),
        **{name: np.ascontiguousarray(array.detach().numpy()) for name, array in arrays.items()},
        version=np.array(torch.__version__),
    )


if __name__ == "__main__":
    main()
