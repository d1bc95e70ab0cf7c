"""Search: space, samplers, schedules, plan, lanes, result."""

from jaxnet.search.adaptive import bayesian as bayesian
from jaxnet.search.adaptive import optuna as optuna
from jaxnet.search.curve_extrapolation import curve_extrapolation as curve_extrapolation
from jaxnet.search.driver import plan as plan
from jaxnet.search.driver import random_search as random_search
from jaxnet.search.driver import run as run
from jaxnet.search.freeze_thaw import freeze_thaw as freeze_thaw
from jaxnet.search.planning import Plan as Plan
from jaxnet.search.result import SearchResult as SearchResult
from jaxnet.search.samplers import Proposer as Proposer
from jaxnet.search.samplers import grid as grid
from jaxnet.search.samplers import random as random
from jaxnet.search.samplers import sobol as sobol
from jaxnet.search.schedules import Rung as Rung
from jaxnet.search.schedules import Schedule as Schedule
from jaxnet.search.schedules import full as full
from jaxnet.search.schedules import hyperband as hyperband
from jaxnet.search.schedules import median_stopping as median_stopping
from jaxnet.search.schedules import successive_halving as successive_halving
from jaxnet.search.space import Hyperparameters as Hyperparameters
from jaxnet.training import Program as Program

from jaxnet.hints import propose_attributes as _propose_attributes

_propose_attributes(__name__)
