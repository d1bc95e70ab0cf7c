"""Other libraries in, each submodule imported when it is used.

Networks as layers: ``flax`` (linen), ``nnx``, ``haiku``, ``equinox``, each with a function ``layer``. Weights that were
learned elsewhere, in a network of jaxnet's layers: ``torch`` and ``flax``, each with a function ``weights``. A study of
Optuna whose trials train side by side: ``optuna.optimize``.
"""
