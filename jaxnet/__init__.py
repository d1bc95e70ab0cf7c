"""jaxnet: neural networks as pairs of pure functions on JAX, searched thousands at once.

The table of contents: every public name, by topic.
"""

import gc as _gc
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from jaxnet.hints import no_attribute as _no_attribute

# Importing jax leaves Python just short of a full collection, which walks through all of it and finds nothing: twice
# what importing jaxnet takes. It is not to fall in here.
_collecting = _gc.isenabled()
_gc.disable()
try:
    # The contract, and what a layer of one's own is made with.
    from jaxnet.layer import Layer as Layer
    from jaxnet.layer import Size as Size
    from jaxnet.layer import Spec as Spec
    from jaxnet.ops.parameters import parameter as parameter
    from jaxnet.sequence import Sequence as Sequence

    # Layers.
    from jaxnet.layers.dense import dense as dense
    from jaxnet.layers.convolution import conv as conv
    from jaxnet.layers.convolution import conv_transpose as conv_transpose
    from jaxnet.layers.convolution import depthwise_conv as depthwise_conv
    from jaxnet.layers.convolution import fixed_conv as fixed_conv
    from jaxnet.layers.convolution import separable_conv as separable_conv
    from jaxnet.layers.locally_connected import locally_connected as locally_connected
    from jaxnet.layers.pooling import adaptive_avg_pool as adaptive_avg_pool
    from jaxnet.layers.pooling import adaptive_max_pool as adaptive_max_pool
    from jaxnet.layers.pooling import avg_pool as avg_pool
    from jaxnet.layers.pooling import global_avg_pool as global_avg_pool
    from jaxnet.layers.pooling import global_max_pool as global_max_pool
    from jaxnet.layers.pooling import lp_pool as lp_pool
    from jaxnet.layers.pooling import max_pool as max_pool
    from jaxnet.layers.pooling import min_pool as min_pool
    from jaxnet.layers.pooling import sum_pool as sum_pool
    from jaxnet.layers.recurrent import gru as gru
    from jaxnet.layers.recurrent import lstm as lstm
    from jaxnet.layers.recurrent import rnn as rnn
    from jaxnet.layers.normalization import batch_norm as batch_norm
    from jaxnet.layers.normalization import group_norm as group_norm
    from jaxnet.layers.normalization import instance_norm as instance_norm
    from jaxnet.layers.normalization import layer_norm as layer_norm
    from jaxnet.layers.normalization import rms_norm as rms_norm
    from jaxnet.layers.normalization import spectral_norm as spectral_norm
    from jaxnet.layers.attention import multi_head_attention as multi_head_attention
    from jaxnet.layers.attention import transformer_block as transformer_block
    from jaxnet.layers.embedding import embedding as embedding
    from jaxnet.layers.embedding import learned_positions as learned_positions
    from jaxnet.layers.embedding import one_hot as one_hot
    from jaxnet.layers.embedding import sinusoidal_positions as sinusoidal_positions
    from jaxnet.layers.activation import maxout as maxout
    from jaxnet.layers.activation import prelu as prelu
    from jaxnet.layers.activation import softmax as softmax
    from jaxnet.layers.elementwise import lift as lift
    from jaxnet.layers.dropout import dropout as dropout
    from jaxnet.layers.dropout import gaussian_noise as gaussian_noise
    from jaxnet.layers.shape import crop as crop
    from jaxnet.layers.shape import flatten as flatten
    from jaxnet.layers.shape import pad as pad
    from jaxnet.layers.shape import reshape as reshape
    from jaxnet.layers.shape import transpose as transpose
    from jaxnet.layers.shape import upsample as upsample

    # Layers made of layers.
    from jaxnet.combinators import bidirectional as bidirectional
    from jaxnet.combinators import frozen as frozen
    from jaxnet.combinators import parallel as parallel
    from jaxnet.combinators import remat as remat
    from jaxnet.combinators import repeat as repeat
    from jaxnet.combinators import residual as residual
    from jaxnet.combinators import serial as serial
    from jaxnet.combinators import time_distributed as time_distributed
    from jaxnet.combinators import with_dtype as with_dtype

    # Losses, penalties and constraints, metrics.
    from jaxnet import losses as losses
    from jaxnet import metrics as metrics
    from jaxnet.constraints import max_norm as max_norm

    # Training.
    from jaxnet.callback import Callback as Callback
    from jaxnet.stream import Stream as Stream
    from jaxnet.training import Fitted as Fitted
    from jaxnet.training import Trial as Trial
    from jaxnet.training import evaluate as evaluate
    from jaxnet.training import fit as fit
    from jaxnet.training import patience as patience
    from jaxnet.training import predict as predict
    from jaxnet.training import target as target

    # Networks that are often wanted.
    from jaxnet import models as models

    # Networks in files.
    from jaxnet.checkpoint import load as load
    from jaxnet.checkpoint import save as save
    from jaxnet.exporting import export as export

    # Inspection.
    from jaxnet.inspection import check_gradients as check_gradients
    from jaxnet.inspection import linear_map as linear_map
    from jaxnet.inspection import summary as summary
finally:
    if _collecting:
        _gc.collect(0)
        _gc.enable()

# Search, loaded when it is first used: half of what there is to import, and no layer needs it.
if TYPE_CHECKING:
    from jaxnet import search as search
    from jaxnet.search.driver import random_search as random_search
    from jaxnet.search.space import Space as Space
    from jaxnet.search.space import choice as choice
    from jaxnet.search.space import hp as hp
    from jaxnet.search.space import integers as integers
    from jaxnet.search.space import log_integers as log_integers
    from jaxnet.search.space import log_uniform as log_uniform
    from jaxnet.search.space import uniform as uniform
else:

    def __getattr__(name: str):
        if name not in _SEARCH:
            raise _no_attribute("jaxnet", name, __dir__())
        module = _import_module("jaxnet.search" + _SEARCH[name])
        globals()[name] = value = module if name == "search" else getattr(module, name)
        return value


_SEARCH = {"search": "", "random_search": ".driver"} | dict.fromkeys(
    ("Space", "choice", "hp", "integers", "log_integers", "log_uniform", "uniform"), ".space"
)

__version__ = "0.1.0"


def __dir__() -> list[str]:
    return sorted({*globals(), *_SEARCH})
