"""The networks that benchmarks train, the same in jaxnet, flax.linen, Haiku, Equinox and PyTorch.

Batches are ``[batch, *shape]`` with features last; Equinox and PyTorch get images with channels first, as they want
them. Every library draws the weights that it draws by default.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn

BATCH = 128


class Network(NamedTuple):
    """A network by its makers.

    ``jaxnet`` is the layer. The others take the imported library and make its module: ``flax`` a linen module,
    ``haiku`` a function for ``transform_with_state``, ``equinox`` (which takes a key too) a module whose call takes one
    example and, where it has one, the state, with that state or None; ``torch`` a module. ``grouped`` takes PyTorch and
    a number of lanes, and makes one module of as many networks, as HFTA does (Wang et al., 2021): grouped convolutions
    and batched products. ``autoencoder`` networks put out logits of their input, mean and log variance; others logits
    of ten classes.
    """

    shape: tuple[int, ...]
    jaxnet: jn.Layer
    flax: Callable[[Any], Any]
    haiku: Callable[[Any], Any]
    equinox: Callable[[Any, Any], Any]
    torch: Callable[[Any], Any]
    grouped: Callable[[Any, int], Any] | None = None
    autoencoder: bool = False

    def data(self, examples: int) -> tuple[np.ndarray, np.ndarray]:
        """Random inputs and labels: only time is measured."""
        generator = np.random.default_rng(0)
        x = generator.random((examples, *self.shape), np.float32)
        return x, generator.integers(10, size=examples).astype(np.int32)

    @property
    def bytes(self) -> int:
        """Of its parameters, float32."""
        params = jax.eval_shape(lambda: self.jaxnet.init(jax.random.key(0), self.shape)[0])
        return 4 * sum(leaf.size for leaf in jax.tree.leaves(params))


class Peer(NamedTuple):
    """A network in a library for JAX, in training: ``init(key, x) -> (params, state)`` of a batch, and
    ``loss(params, state, x, y, key) -> (mean loss, state)``."""

    init: Callable[..., Any]
    loss: Callable[..., Any]
    channels_first: bool = False


def mlp(hidden: int) -> Network:
    """784-hidden-10 with relu."""

    def flax(n):
        return n.Sequential([_flat, n.Dense(hidden), jax.nn.relu, n.Dense(10)])

    def haiku(hk):
        return lambda x: hk.Linear(10)(jax.nn.relu(hk.Linear(hidden)(_flat(x))))

    def equinox(eqx, key):
        sizes = {"in_size": 784, "out_size": 10, "width_size": hidden, "depth": 1}
        return _stateless(eqx, eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), eqx.nn.MLP(**sizes, key=key)]))

    def torch(t):
        return t.nn.Sequential(t.nn.Flatten(), t.nn.Linear(784, hidden), t.nn.ReLU(), t.nn.Linear(hidden, 10))

    net = jn.serial(jn.flatten, jn.dense(hidden), jax.nn.relu, jn.dense(10))
    return Network((28, 28, 1), net, flax, haiku, equinox, torch)


def mlp_with_batch_norm(hidden: int) -> Network:
    """784-hidden-hidden-10, batch norm behind each hidden product, in place of its bias."""

    def flax(n):
        def norm():
            return n.BatchNorm(use_running_average=False, momentum=0.9)

        layers = [layer for _ in range(2) for layer in (n.Dense(hidden, use_bias=False), norm(), jax.nn.relu)]
        return n.Sequential([_flat, *layers, n.Dense(10)])

    def haiku(hk):
        def forward(x):
            x = _flat(x)
            for _ in range(2):
                x = hk.BatchNorm(True, True, 0.9)(hk.Linear(hidden, with_bias=False)(x), is_training=True)
                x = jax.nn.relu(x)
            return hk.Linear(10)(x)

        return forward

    def equinox(eqx, key):
        keys = jax.random.split(key, 3)

        def make():
            layers = [eqx.nn.Lambda(jnp.ravel)]
            for m, k in ((784, keys[0]), (hidden, keys[1])):
                norm = eqx.nn.BatchNorm(hidden, "batch", mode="batch", momentum=0.9)
                layers += [eqx.nn.Linear(m, hidden, use_bias=False, key=k), norm, eqx.nn.Lambda(jax.nn.relu)]
            return eqx.nn.Sequential([*layers, eqx.nn.Linear(hidden, 10, key=keys[2])])

        return eqx.nn.make_with_state(make)()

    def torch(t):
        layers = [t.nn.Flatten()]
        for m in (784, hidden):
            layers += [t.nn.Linear(m, hidden, bias=False), t.nn.BatchNorm1d(hidden, momentum=0.1), t.nn.ReLU()]
        return t.nn.Sequential(*layers, t.nn.Linear(hidden, 10))

    hidden_layers = [layer for _ in range(2) for layer in (jn.dense(hidden, bias=False), jn.batch_norm(), jax.nn.relu)]
    net = jn.serial(jn.flatten, *hidden_layers, jn.dense(10))
    return Network((28, 28, 1), net, flax, haiku, equinox, torch)


def lenet(a: int, b: int, c: int) -> Network:
    """Two 5 x 5 convolutions with a and b filters, each with pooling behind, then c, 84 and 10 units."""
    net = jn.models.lenet5(filters=(a, b), units=(c, 84))

    def flax(n):
        return n.Sequential(
            [
                n.Conv(a, (5, 5)), _linen_pool(n), jax.nn.relu, n.Conv(b, (5, 5), padding="VALID"), _linen_pool(n),
                jax.nn.relu, _flat, n.Dense(c), jax.nn.relu, n.Dense(84), jax.nn.relu, n.Dense(10),
            ]
        )  # fmt: skip

    def haiku(hk):
        def forward(x):
            x = jax.nn.relu(hk.max_pool(hk.Conv2D(a, 5)(x), (1, 2, 2, 1), (1, 2, 2, 1), "VALID"))
            x = hk.max_pool(hk.Conv2D(b, 5, padding="VALID")(x), (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            return hk.nets.MLP((c, 84, 10))(_flat(jax.nn.relu(x)))

        return forward

    def equinox(eqx, key):
        keys = jax.random.split(key, 3)
        layers = [
            eqx.nn.Conv2d(1, a, 5, padding=2, key=keys[0]), eqx.nn.MaxPool2d(2, 2), eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(a, b, 5, key=keys[1]), eqx.nn.MaxPool2d(2, 2), eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
        ]  # fmt: skip
        for i, (m, n) in enumerate(((25 * b, c), (c, 84), (84, 10))):
            layers += [eqx.nn.Linear(m, n, key=jax.random.fold_in(keys[2], i)), eqx.nn.Lambda(jax.nn.relu)]
        return _stateless(eqx, eqx.nn.Sequential(layers[:-1]))

    def torch(t):
        return t.nn.Sequential(
            t.nn.Conv2d(1, a, 5, padding=2), t.nn.MaxPool2d(2), t.nn.ReLU(), t.nn.Conv2d(a, b, 5), t.nn.MaxPool2d(2),
            t.nn.ReLU(), t.nn.Flatten(), t.nn.Linear(25 * b, c), t.nn.ReLU(), t.nn.Linear(c, 84), t.nn.ReLU(),
            t.nn.Linear(84, 10),
        )  # fmt: skip

    def grouped(t, lanes):
        dense = _grouped_dense(t, lanes)
        return t.nn.Sequential(
            t.nn.Conv2d(lanes, a * lanes, 5, padding=2, groups=lanes), t.nn.MaxPool2d(2), t.nn.ReLU(),
            t.nn.Conv2d(a * lanes, b * lanes, 5, groups=lanes), t.nn.MaxPool2d(2), t.nn.ReLU(),
            _by_lane(t, lanes), dense(25 * b, c), t.nn.ReLU(), dense(c, 84), t.nn.ReLU(), dense(84, 10),
        )  # fmt: skip

    return Network((28, 28, 1), net, flax, haiku, equinox, torch, grouped)


def lstm(units: int, steps: int = 20) -> Network:
    """An LSTM over so many steps of 58 features, and a dense layer on its last output."""
    net = jn.serial(jn.lstm(units, returns="last"), jn.dense(10))

    def flax(n):
        return n.Sequential([n.RNN(n.OptimizedLSTMCell(units)), lambda x: x[:, -1], n.Dense(10)])

    def haiku(hk):
        def forward(x):
            core = hk.LSTM(units)
            outputs, _ = hk.dynamic_unroll(core, x, core.initial_state(len(x)), time_major=False)
            return hk.Linear(10)(outputs[:, -1])

        return forward

    def equinox(eqx, key):
        class Classifier(eqx.Module):
            cell: Any
            head: Any

            def __call__(self, x):
                start = jnp.zeros(units), jnp.zeros(units)
                (h, _), _ = jax.lax.scan(lambda carry, x: (self.cell(x, carry), None), start, x)
                return self.head(h)

        keys = jax.random.split(key)
        return _stateless(
            eqx, Classifier(eqx.nn.LSTMCell(58, units, key=keys[0]), eqx.nn.Linear(units, 10, key=keys[1]))
        )

    def torch(t):
        class Classifier(t.nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm, self.head = t.nn.LSTM(58, units, batch_first=True), t.nn.Linear(units, 10)

            def forward(self, x):
                return self.head(self.lstm(x)[0][:, -1])

        return Classifier()

    return Network((steps, 58), net, flax, haiku, equinox, torch)


def resnet(filters: int) -> Network:
    """He et al.'s residual network of 8 layers, with batch norm, shortcuts without parameters, on 28 x 28 pixels."""
    net = jn.models.resnet(8, filters=filters)
    stages = [(filters, filters, 1), (filters, 2 * filters, 2), (2 * filters, 4 * filters, 2)]

    def past(x, features, strides):  # features last
        x = x[:, ::strides, ::strides]
        return jnp.pad(x, [*[(0, 0)] * 3, (0, features - x.shape[-1])])

    def flax(n):
        def conv(features, strides=1):
            return n.Conv(features, (3, 3), strides=strides, padding=1, use_bias=False)

        class ResNet(n.Module):
            @n.compact
            def __call__(self, x):
                def norm(x):
                    return n.BatchNorm(use_running_average=False, momentum=0.9)(x)

                x = jax.nn.relu(norm(conv(filters)(x)))
                for _, features, strides in stages:
                    y = jax.nn.relu(norm(conv(features, strides)(x)))
                    x = jax.nn.relu(norm(conv(features)(y)) + past(x, features, strides))
                return n.Dense(10)(x.mean((1, 2)))

        return ResNet()

    def haiku(hk):
        def conv(features, strides=1):
            return hk.Conv2D(features, 3, strides, padding=((1, 1), (1, 1)), with_bias=False)

        def norm(x):
            return hk.BatchNorm(True, True, 0.9)(x, is_training=True)

        def forward(x):
            x = jax.nn.relu(norm(conv(filters)(x)))
            for _, features, strides in stages:
                y = jax.nn.relu(norm(conv(features, strides)(x)))
                x = jax.nn.relu(norm(conv(features)(y)) + past(x, features, strides))
            return hk.Linear(10)(x.mean((1, 2)))

        return forward

    def equinox(eqx, key):
        keys = iter(jax.random.split(key, 8))

        def conv(m, n, strides=1):
            return eqx.nn.Conv2d(m, n, 3, strides, padding=1, use_bias=False, key=next(keys))

        def norm(n):
            return eqx.nn.BatchNorm(n, "batch", mode="batch", momentum=0.9)

        class ResNet(eqx.Module):
            first: Any
            blocks: Any
            head: Any

            def __init__(self):
                self.first = conv(1, filters), norm(filters)
                self.blocks = [(conv(m, n, s), norm(n), conv(n, n), norm(n)) for m, n, s in stages]
                self.head = eqx.nn.Linear(4 * filters, 10, key=next(keys))

            def __call__(self, x, state):
                x, state = self.first[1](self.first[0](x), state)
                x = jax.nn.relu(x)
                for (m, n, strides), block in zip(stages, self.blocks, strict=True):
                    y, state = block[1](block[0](x), state)
                    y, state = block[3](block[2](jax.nn.relu(y)), state)
                    x = jax.nn.relu(y + jnp.pad(x[:, ::strides, ::strides], [(0, n - m), (0, 0), (0, 0)]))
                return self.head(x.mean((1, 2))), state

        return eqx.nn.make_with_state(ResNet)()

    def torch(t, lanes=1, running=True):
        def conv(m, n, strides=1):
            return t.nn.Conv2d(m * lanes, n * lanes, 3, strides, padding=1, bias=False, groups=lanes)

        def norm(n):
            return t.nn.BatchNorm2d(n * lanes, momentum=0.1, track_running_stats=running)

        class Block(t.nn.Module):
            def __init__(self, m, n, strides):
                super().__init__()
                self.learned = t.nn.Sequential(conv(m, n, strides), norm(n), t.nn.ReLU(), conv(n, n), norm(n))
                self.added, self.strides = n - m, strides

            def forward(self, x):
                past = x[:, :, :: self.strides, :: self.strides]
                if self.added and lanes == 1:
                    past = t.nn.functional.pad(past, (0, 0, 0, 0, 0, self.added))
                elif self.added:
                    past = past.unflatten(1, (lanes, -1))
                    past = t.nn.functional.pad(past, (0, 0, 0, 0, 0, self.added)).flatten(1, 2)
                return t.relu(self.learned(x) + past)

        head = [_by_lane(t, lanes), _grouped_dense(t, lanes)(4 * filters, 10)] if lanes > 1 else [t.nn.Flatten()]
        head += [t.nn.Linear(4 * filters, 10)] * (lanes == 1)
        first = [conv(1, filters), norm(filters), t.nn.ReLU()]
        return t.nn.Sequential(*first, *(Block(*stage) for stage in stages), t.nn.AdaptiveAvgPool2d(1), *head)

    return Network((28, 28, 1), net, flax, haiku, equinox, torch, torch)


def vae() -> Network:
    """784-200-50-200-784 with tanh, the decoder's outputs logits of pixels."""
    encoder, decoder = jn.serial(jn.dense(200), jnp.tanh), jn.serial(jn.dense(200), jnp.tanh, jn.dense(784))
    net = jn.models.variational_autoencoder(encoder, decoder, latent=50)

    def drawn(mean, log_variance, key):
        return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)

    def flax(n):
        class Autoencoder(n.Module):
            @n.compact
            def __call__(self, x):
                features = jnp.tanh(n.Dense(200)(x))
                mean, log_variance = n.Dense(50)(features), n.Dense(50)(features)
                z = drawn(mean, log_variance, self.make_rng("params"))
                return n.Dense(784)(jnp.tanh(n.Dense(200)(z))), mean, log_variance

        return Autoencoder()

    def haiku(hk):
        def forward(x):
            features = jnp.tanh(hk.Linear(200)(x))
            mean, log_variance = hk.Linear(50)(features), hk.Linear(50)(features)
            z = drawn(mean, log_variance, hk.next_rng_key())
            return hk.Linear(784)(jnp.tanh(hk.Linear(200)(z))), mean, log_variance

        return forward

    def equinox(eqx, key):
        sizes = (784, 200), (200, 50), (200, 50), (50, 200), (200, 784)

        class Autoencoder(eqx.Module):
            layers: list[Any]

            def __call__(self, x, key):
                features = jnp.tanh(self.layers[0](x))
                mean, log_variance = self.layers[1](features), self.layers[2](features)
                z = drawn(mean, log_variance, key)
                return self.layers[4](jnp.tanh(self.layers[3](z))), mean, log_variance

        keys = jax.random.split(key, 5)
        return _stateless(eqx, Autoencoder([eqx.nn.Linear(m, n, key=k) for (m, n), k in zip(sizes, keys, strict=True)]))

    def torch(t):
        class Autoencoder(t.nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.mean = t.nn.Linear(784, 200), t.nn.Linear(200, 50)
                self.log_variance = t.nn.Linear(200, 50)
                self.decoder = t.nn.Sequential(t.nn.Linear(50, 200), t.nn.Tanh(), t.nn.Linear(200, 784))

            def forward(self, x):
                features = t.tanh(self.encoder(x))
                mean, log_variance = self.mean(features), self.log_variance(features)
                z = mean + t.exp(0.5 * log_variance) * t.randn_like(mean)
                return self.decoder(z), mean, log_variance

        return Autoencoder()

    return Network((784,), net, flax, haiku, equinox, torch, autoencoder=True)


NETWORKS: dict[str, Callable[[], Network]] = {
    **{f"MLP 784-{n}-10": functools.partial(mlp, n) for n in (16, 128, 512, 1024)},
    "MLP 784-512-512-10, batch norm": functools.partial(mlp_with_batch_norm, 512),
    "LeNet 6-16-120": functools.partial(lenet, 6, 16, 120),
    "LeNet 32-64-256": functools.partial(lenet, 32, 64, 256),
    "LSTM 58-128, 20 steps": functools.partial(lstm, 128),
    "ResNet 8, 16 filters": functools.partial(resnet, 16),
    "VAE 784-200-50": vae,
}


def trial(network: Network, hp: Any) -> jn.Trial:
    """Trained by plain SGD with an l2 penalty, as in the search of the course; ``hp`` has ``rate`` and ``l2``."""
    loss = jn.models.negative_elbo() if network.autoencoder else jn.losses.softmax_cross_entropy
    return jn.Trial(network.jaxnet, loss, optax.sgd(hp.rate), penalty=jn.losses.l2(hp.l2), batch_size=BATCH)


def jax_peers(network: Network) -> dict[str, Peer]:
    """The network in each library for JAX that is installed, by name."""
    peers = {"flax": _flax(network), "haiku": _haiku(network), "equinox": _equinox(network)}
    return {name: peer for name, peer in peers.items() if peer is not None}


def plain(network: Network) -> Peer:
    """jaxnet's layers in a loop written by hand."""

    def init(key, x):
        return network.jaxnet.init(key, x.shape[1:])[:2]

    def loss(params, state, x, y, key):
        outputs, state = network.jaxnet.apply(params, state, x, key=key, train=True)
        if network.autoencoder:
            return jnp.mean(outputs.divergence - outputs.log_likelihood), state
        return _loss(network, outputs, x, y), state

    return Peer(init, loss)


def epoch(peer: Peer, steps: int) -> Callable[..., Any]:
    """``(params, state, rate, l2, key, order, x, y) -> (params, state, mean loss)``, so many steps of plain SGD as one
    ``scan``.

    That is how somebody would write it who looks for speed, and at the training loss. Data are on the device, batches
    rows of them in an order.
    """

    def run(params, state, rate, l2, key, order, x, y):
        def step(carry, i):
            params, state, total = carry
            rows = jax.lax.dynamic_slice_in_dim(order, i * BATCH, BATCH)

            def objective(params):
                value, new = peer.loss(params, state, x[rows], y[rows], jax.random.fold_in(key, i))
                penalty = 0.5 * l2 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params) if p.ndim > 1)
                return value + penalty, (value, new)

            gradient, (value, state) = jax.grad(objective, has_aux=True)(params)
            return (jax.tree.map(lambda p, g: p - rate * g, params, gradient), state, total + value), None

        (params, state, total), _ = jax.lax.scan(step, (params, state, jnp.zeros(())), jnp.arange(steps))
        return params, state, total / steps

    return run


def torch_loss(torch: Any, network: Network, outputs: Any, x: Any, y: Any) -> Any:
    """The mean loss of PyTorch's module."""
    if not network.autoencoder:
        return torch.nn.functional.cross_entropy(outputs, y)
    logits, mean, log_variance = outputs
    pixels = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (pixels + 0.5 * (log_variance.exp() - 1 - log_variance + mean**2).sum()) / len(x)


def for_torch(torch: Any, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
    """Data as PyTorch wants them, on its GPU where it has one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x
    return torch.from_numpy(x).to(device), torch.from_numpy(y.astype(np.int64)).to(device)


def imported(name: str) -> Any:
    """A module, or None where it isn't installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _loss(network: Network, outputs: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    if not network.autoencoder:
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()
    logits, mean, log_variance = outputs
    divergence = 0.5 * jnp.sum(jnp.exp(log_variance) - 1 - log_variance + mean**2)
    return (jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x)) + divergence) / len(x)


def _flax(network: Network) -> Peer | None:
    if (linen := imported("flax.linen")) is None:
        return None
    module = network.flax(linen)

    def init(key, x):
        variables = dict(module.init(key, x))
        return variables.pop("params"), variables

    def loss(params, state, x, y, key):
        rngs = {"params": key} if network.autoencoder else None
        outputs, state = module.apply({"params": params, **state}, x, rngs=rngs, mutable=[*state])
        return _loss(network, outputs, x, y), state

    return Peer(init, loss)


def _haiku(network: Network) -> Peer | None:
    if (haiku := imported("haiku")) is None:
        return None
    forward = haiku.transform_with_state(lambda x: network.haiku(haiku)(x))

    def loss(params, state, x, y, key):
        outputs, state = forward.apply(params, state, key, x)
        return _loss(network, outputs, x, y), state

    return Peer(forward.init, loss)


def _equinox(network: Network) -> Peer | None:
    if (equinox := imported("equinox")) is None:
        return None
    rest: Any = None

    def init(key, x):
        nonlocal rest
        module, state = network.equinox(equinox, key)
        params, rest = equinox.partition(module, equinox.is_inexact_array)
        return params, state

    def loss(params, state, x, y, key):
        module, keys = equinox.combine(params, rest), ()
        if network.autoencoder:
            keys = (jax.random.split(key, len(x)),)
        if state is None:
            outputs = jax.vmap(module)(x, *keys)
        else:
            outputs, state = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
        return _loss(network, outputs, x, y), state

    return Peer(init, loss, channels_first=len(network.shape) == 3)


def _stateless(eqx: Any, module: Any) -> tuple[Any, None]:
    return module, None


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1)


def _linen_pool(n: Any) -> Callable[[jax.Array], jax.Array]:
    return functools.partial(n.max_pool, window_shape=(2, 2), strides=(2, 2))


def _by_lane(t: Any, lanes: int) -> Any:
    """From ``[batch, lanes * channels, height, width]`` to ``[lanes, batch, features]``."""

    class ByLane(t.nn.Module):
        def forward(self, x):
            return x.unflatten(1, (lanes, -1)).flatten(2).transpose(0, 1)

    return ByLane()


def _grouped_dense(t: Any, lanes: int) -> Callable[[int, int], Any]:
    class Dense(t.nn.Module):
        def __init__(self, m, n):
            super().__init__()
            self.w = t.nn.Parameter(t.randn(lanes, m, n) / m**0.5)
            self.b = t.nn.Parameter(t.zeros(lanes, 1, n))

        def forward(self, x):
            return t.baddbmm(self.b, x, self.w)

    return Dense
