"""Other libraries' weights in: ``jaxnet.interop.torch`` and ``jaxnet.interop.flax``, each imported when it is used."""
