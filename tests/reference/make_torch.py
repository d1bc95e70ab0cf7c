"""Writes torch.npz, what PyTorch computes for inputs that have no symmetry; tests read the file and need no PyTorch.

Run by hand: ``python tests/reference/make_torch.py``. The committed file was made with PyTorch 2.13.0 on a CPU, in
float64. Weights are stored as jaxnet holds them, ``[in_features, out_features]``.
"""

import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional

STEPS = 20
OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "nesterov": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
}


def linear(normal):
    """``y = x @ w + b`` on a matrix and on a batch of sequences, and the gradients of ``sum(y * g)``."""
    layer = nn.Linear(5, 3)
    for name, shape in {"matrix": (4, 5), "sequence": (2, 4, 5)}.items():
        layer.zero_grad()
        x = normal(*shape).requires_grad_()
        g = normal(*shape[:-1], 3)
        y = layer(x)
        y.backward(g)
        arrays = {"x": x, "g": g, "w": layer.weight.T, "b": layer.bias, "y": y}
        arrays |= {"dx": x.grad, "dw": layer.weight.grad.T, "db": layer.bias.grad}
        yield from ((f"linear/{name}/{key}", value) for key, value in arrays.items())


def losses(normal):
    """Each example's loss, and the gradient of the losses' sum with respect to the outputs."""
    outputs = 3 * normal(6, 4)
    images = 3 * normal(6, 2, 4)
    labels, pixel_labels = torch.tensor([3, 0, 1, 1, 2, 0]), torch.randint(4, (6, 2))
    distributions = torch.softmax(normal(6, 4), dim=1)
    yes = torch.randint(2, (6, 4)).double()
    probabilities = torch.rand(6, 4)
    reals = 3 * normal(6, 4)

    def cross_entropy(made, targets):
        return functional.cross_entropy(made, targets, reduction="none")

    def smoothed(made, targets):
        return functional.cross_entropy(made, targets, reduction="none", label_smoothing=0.2)

    def divergence(made, targets):
        return functional.kl_div(functional.log_softmax(made, 1), targets, reduction="none").sum(1)

    def crammer_singer(made, targets):
        own = made.gather(1, targets[:, None])[:, 0]
        others = made.masked_fill(functional.one_hot(targets, 4).bool(), -torch.inf)
        return functional.relu(1 + others.max(1).values - own)

    cases = {
        "cross_entropy_labels": (outputs, labels, cross_entropy),
        "cross_entropy_distributions": (outputs, distributions, cross_entropy),
        "cross_entropy_pixels": (images, pixel_labels, lambda made, targets: cross_entropy(made.mT, targets).mean(1)),
        "binary_labels": (outputs, yes, _mean(functional.binary_cross_entropy_with_logits)),
        "binary_probabilities": (outputs, probabilities, _mean(functional.binary_cross_entropy_with_logits)),
        "squared_error": (outputs, reals, _mean(functional.mse_loss)),
        "huber_0.5": (outputs, reals, _mean(functional.huber_loss, delta=0.5)),
        "huber_2.0": (outputs, reals, _mean(functional.huber_loss, delta=2.0)),
        "absolute_error": (outputs, reals, _mean(functional.l1_loss)),
        "smoothing_labels": (outputs, labels, smoothed),
        "smoothing_distributions": (outputs, distributions, smoothed),
        "smoothing_pixels": (images, pixel_labels, lambda made, targets: smoothed(made.mT, targets).mean(1)),
        "kl_divergence": (outputs, distributions, divergence),
        "hinge_yes_or_no": (outputs, yes, lambda made, targets: functional.relu(1 - made * (2 * targets - 1)).mean(1)),
        "hinge_labels": (outputs, labels, crammer_singer),
    }
    for name, (made, targets, loss) in cases.items():
        made = made.clone().requires_grad_()
        values = loss(made, targets)
        values.sum().backward()
        arrays = {"outputs": made, "targets": targets, "losses": values, "gradient": made.grad}
        yield from ((f"losses/{name}/{key}", value) for key, value in arrays.items())


def _mean(loss, **settings):
    return lambda o, t: loss(o, t, reduction="none", **settings).flatten(1).mean(1)


def training(normal):
    """The loss before each full-batch step of a 5-7-3 network with tanh, and the last weights; no decay of biases."""
    x, labels = normal(12, 5), torch.randint(3, (12,))
    first, second = 0.5 * normal(7, 5), 0.5 * normal(3, 7)
    data = {"x": x, "labels": labels, "w0": first.T, "w1": second.T}
    yield from ((f"training/{key}", value) for key, value in data.items())
    for name, optimizer in OPTIMIZERS.items():
        for decay in (0.0, 0.1):
            net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
            with torch.no_grad():
                for layer, weight in ((net[0], first), (net[2], second)):
                    layer.weight.copy_(weight)
                    layer.bias.zero_()
            weights, biases = [net[0].weight, net[2].weight], [net[0].bias, net[2].bias]
            steps = optimizer([{"params": weights, "weight_decay": decay}, {"params": biases}])
            curve = []
            for _ in range(STEPS):
                steps.zero_grad()
                loss = functional.cross_entropy(net(x), labels)
                loss.backward()
                steps.step()
                curve.append(loss.item())
            arrays = {"losses": torch.tensor(curve), "w0": weights[0].T, "w1": weights[1].T}
            arrays |= {"b0": biases[0], "b1": biases[1]}
            yield from ((f"training/{name}/{decay}/{key}", value) for key, value in arrays.items())


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    arrays = dict([*linear(torch.randn), *losses(torch.randn), *training(torch.randn)])
    np.savez_compressed(
        pathlib.Path(__file__).with_name("torch.npz"),
        **{name: np.ascontiguousarray(value.detach().numpy()) for name, value in arrays.items()},
        version=np.array(torch.__version__),
    )


if __name__ == "__main__":
    main()
