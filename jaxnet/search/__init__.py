"""Search: space, samplers, plan, lanes, result."""

from jaxnet.search.driver import plan as plan
from jaxnet.search.driver import random_search as random_search
from jaxnet.search.driver import run as run
from jaxnet.search.planning import Plan as Plan
from jaxnet.search.result import SearchResult as SearchResult
from jaxnet.search.samplers import grid as grid
from jaxnet.search.samplers import random as random
from jaxnet.search.samplers import sobol as sobol
from jaxnet.training import Program as Program
