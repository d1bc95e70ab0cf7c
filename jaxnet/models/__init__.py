"""Networks that are often wanted: built from layers, nothing special."""

from jaxnet.models.lenet import lenet5 as lenet5
from jaxnet.models.resnet import resnet as resnet
from jaxnet.models.sequence_classifier import sequence_classifier as sequence_classifier
from jaxnet.models.autoencoder import autoencoder as autoencoder
from jaxnet.models.autoencoder import reconstruction_loss as reconstruction_loss
from jaxnet.models.vae import importance_weighted as importance_weighted
from jaxnet.models.vae import negative_elbo as negative_elbo
from jaxnet.models.vae import variational_autoencoder as variational_autoencoder
from jaxnet.models.gan import dcgan_discriminator as dcgan_discriminator
from jaxnet.models.gan import dcgan_generator as dcgan_generator

from jaxnet.hints import propose_attributes as _propose_attributes

_propose_attributes(__name__)
