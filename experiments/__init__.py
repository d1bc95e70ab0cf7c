"""Experiments that use jaxnet, with their data and benchmarks. No part of the installed package."""
