"""A random search on MNIST as users of other libraries write it.

The network is 784-hidden-10 with relu, trained by plain SGD on the softmax cross entropy plus ``0.5 * l2 *
sum(w**2)`` over the weight matrices, biases left out. Every epoch goes through a new permutation of the
training data, the last, smaller batch included. Each peer is

    (configurations, train, validation, epochs, batch_size, seed) -> validation errors

with ``configurations`` a list of dicts of ``learning_rate`` (float), ``l2`` (float) and ``hidden`` (int),
``train`` and ``validation`` pairs of images (uint8 ``[n, 28, 28, 1]``) and labels (int ``[n]``), and the
errors a list of floats, one for each configuration in its order: the fraction misclassified after the last
epoch, lower is better. The peers run one trial after another, as Optuna does by default, and prune none.
"""

import jax
import jax.numpy as jnp
import numpy as np

NAMES = ("learning_rate", "l2", "hidden")


def optuna_torch(configurations, train, validation, epochs, batch_size, seed) -> list[float]:
    """An Optuna study over a PyTorch network, after the PyTorch example of Optuna's documentation.

    Batches come from a ``DataLoader``, as in that example, over a ``TensorDataset`` that holds the images as floats
    in memory. (The example itself decodes every image anew through torchvision, which is several times slower.)
    Weight decay is set by parameter group, so that biases have none; with plain SGD it is the gradient of the
    penalty. Initial weights are PyTorch's own. It runs eagerly: compiling would be paid for with every width.

    Args and returns: see the module. ``seed`` seeds PyTorch's global generator before each trial.
    Raises:
      ImportError: when optuna or torch is not installed.
      ValueError: when a configuration lacks a hyperparameter or has another.

    >>> image, label = np.zeros((4, 28, 28, 1), np.uint8), np.zeros(4, np.int32)
    >>> configuration = {"learning_rate": 0.1, "l2": 0.0, "hidden": 8}
    >>> optuna_torch([configuration], (image, label), (image, label), epochs=20, batch_size=3, seed=0)
    [0.0]
    """
    return _torch_study("optuna_torch", False, configurations, train, validation, epochs, batch_size, seed)


def optuna_torch_tuned(configurations, train, validation, epochs, batch_size, seed) -> list[float]:
    """``optuna_torch`` as somebody would write it who looked for speed.

    Instead of a ``DataLoader``, which fetches and collates item by item, the data is one float tensor on the device,
    indexed by slices of a permutation; and the optimiser is fused.

    Args, returns and errors: as for ``optuna_torch``.
    """
    return _torch_study("optuna_torch_tuned", True, configurations, train, validation, epochs, batch_size, seed)


def _torch_study(peer, tuned, configurations, train, validation, epochs, batch_size, seed) -> list[float]:
    try:
        import torch
    except ImportError as error:
        raise _missing(peer, error) from error

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def tensors(images, labels):
        pixels = np.reshape(images, (len(images), -1)).astype(np.float32) / 255
        return torch.from_numpy(pixels).to(device), torch.from_numpy(labels.astype(np.int64)).to(device)

    train_images, train_labels = tensors(*train)  # [n, 784], [n]
    validation_images, validation_labels = tensors(*validation)
    dataset = torch.utils.data.TensorDataset(train_images, train_labels)

    def batches():
        if not tuned:
            yield from torch.utils.data.DataLoader(dataset, batch_size=batch_size, shuffle=True)
            return
        for batch in torch.randperm(len(train_labels), device=device).split(batch_size):
            yield train_images[batch], train_labels[batch]

    def objective(learning_rate, l2, hidden):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(
            torch.nn.Linear(train_images.shape[1], hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10)
        ).to(device)
        weights = [parameter for parameter in model.parameters() if parameter.ndim == 2]
        biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
        optimizer = torch.optim.SGD(
            [{"params": weights, "weight_decay": l2}, {"params": biases, "weight_decay": 0.0}],
            lr=learning_rate,
            fused=tuned,
        )
        loss_function = torch.nn.CrossEntropyLoss()

        model.train()
        for _ in range(epochs):
            for images, labels in batches():
                optimizer.zero_grad()
                loss = loss_function(model(images), labels)
                loss.backward()
                optimizer.step()

        model.eval()
        with torch.no_grad():
            predictions = model(validation_images).argmax(dim=1)
            return (predictions != validation_labels).sum().item() / len(validation_labels)

    return _study(peer, objective, configurations, seed)


def optuna_flax(configurations, train, validation, epochs, batch_size, seed) -> list[float]:
    """An Optuna study over a Flax network with Optax, after the MNIST example of Flax.

    The network is a linen module in a ``TrainState``, as there: the module is initialised as it stands, and Python
    gathers each batch and hands it to a jitted train step without waiting for results. The step is compiled anew in
    every trial, because the width is part of its shapes and the hyperparameters are constants in it, and once more
    for the last, smaller batch. Weight decay comes from Optax with a mask that leaves biases out; with plain SGD it
    is the gradient of the penalty. Initial weights are Flax's own.

    Args and returns: see the module. ``seed`` makes the key of each trial and its permutations.
    Raises:
      ImportError: when optuna, flax or optax is not installed.
      ValueError: when a configuration lacks a hyperparameter or has another.

    >>> image, label = np.zeros((4, 28, 28, 1), np.uint8), np.zeros(4, np.int32)
    >>> configuration = {"learning_rate": 0.1, "l2": 0.0, "hidden": 8}
    >>> optuna_flax([configuration], (image, label), (image, label), epochs=20, batch_size=3, seed=0)
    [0.0]
    """
    return _flax_study("optuna_flax", False, configurations, train, validation, epochs, batch_size, seed)


def optuna_flax_tuned(configurations, train, validation, epochs, batch_size, seed) -> list[float]:
    """``optuna_flax`` as somebody would write it who looked for speed.

    The batch is gathered inside the jitted step from data that stay on the device, and drawing the initial weights
    is compiled as a whole.

    Args, returns and errors: as for ``optuna_flax``.
    """
    return _flax_study("optuna_flax_tuned", True, configurations, train, validation, epochs, batch_size, seed)


def _flax_study(peer, tuned, configurations, train, validation, epochs, batch_size, seed) -> list[float]:
    try:
        import optax
        from flax import linen as nn
        from flax.training.train_state import TrainState
    except ImportError as error:
        raise _missing(peer, error) from error

    def arrays(images, labels):
        return jnp.asarray(images, jnp.float32).reshape(len(images), -1) / 255, jnp.asarray(labels, jnp.int32)

    train_images, train_labels = arrays(*train)  # [n, 784], [n]
    validation_images, validation_labels = arrays(*validation)

    class Network(nn.Module):
        hidden: int

        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(self.hidden)(x))
            return nn.Dense(10)(x)

    @jax.jit
    def train_step(state, images, labels):
        def loss_function(params):
            logits = state.apply_fn({"params": params}, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return state.apply_gradients(grads=jax.grad(loss_function)(state.params))

    @jax.jit
    def gather_and_train(state, images, labels, batch):
        return train_step(state, images[batch], labels[batch])

    @jax.jit
    def count_errors(state, images, labels):
        logits = state.apply_fn({"params": state.params}, images)
        return jnp.sum(logits.argmax(axis=-1) != labels)

    def objective(learning_rate, l2, hidden):
        model = Network(hidden)
        state = TrainState.create(
            apply_fn=model.apply,
            params=(jax.jit(model.init) if tuned else model.init)(jax.random.key(seed), train_images[:1])["params"],
            tx=optax.chain(
                optax.add_decayed_weights(l2, mask=lambda params: jax.tree.map(lambda x: x.ndim == 2, params)),
                optax.sgd(learning_rate),
            ),
        )
        generator = np.random.default_rng(seed)
        for _ in range(epochs):
            permutation = generator.permutation(len(train_labels))
            for start in range(0, len(permutation), batch_size):
                batch = permutation[start : start + batch_size]
                if tuned:
                    state = gather_and_train(state, train_images, train_labels, batch)
                else:
                    state = train_step(state, train_images[batch], train_labels[batch])
        return count_errors(state, validation_images, validation_labels).item() / len(validation_labels)

    return _study(peer, objective, configurations, seed)


def _study(peer, objective, configurations, seed):
    """The values of ``objective(learning_rate, l2, hidden)`` at the configurations, as trials of a study."""
    try:
        import optuna
    except ImportError as error:
        raise _missing(peer, error) from error
    for configuration in configurations:
        if set(configuration) != set(NAMES):
            raise ValueError(
                f"{peer}: expected every configuration to have exactly the hyperparameters {sorted(NAMES)}, "
                f"but one has {sorted(configuration)}. Try naming them so, and leaving out the others."
            )

    def bounds(name):
        values = [configuration[name] for configuration in configurations]
        return min(values), max(values)

    def suggest_and_run(trial):
        return objective(
            learning_rate=trial.suggest_float("learning_rate", *bounds("learning_rate")),
            l2=trial.suggest_float("l2", *bounds("l2")),
            hidden=trial.suggest_int("hidden", *bounds("hidden")),
        )

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=seed))
    # Enqueued, so that all libraries train the very same configurations; nothing is left to the sampler.
    for configuration in configurations:
        study.enqueue_trial(configuration)
    study.optimize(suggest_and_run, n_trials=len(configurations))
    return [float(value) for value in (trial.value for trial in study.trials) if value is not None]


def _missing(peer, error):
    return ImportError(
        f'{peer}: expected the libraries that it compares with, but got: {error}. Try pip install -e ".[bench]".'
    )
