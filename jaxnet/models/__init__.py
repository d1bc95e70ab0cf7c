"""Networks that are often wanted: built from layers, nothing special."""

from jaxnet.models.sequence_classifier import sequence_classifier as sequence_classifier
