"""Fixtures of the contract tests."""

from __future__ import annotations

import pytest
from contract_case import Case

from mim_jax.methods.registry import METHODS, method_class

# A method's tests share compiled functions, so one worker runs them all.
BY_METHOD = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in sorted(METHODS)]


@pytest.fixture(scope="session", params=BY_METHOD)
def cls(request):
    """Every registered method: a new line in the registry is all that a new method needs to be tested here."""
    return method_class(request.param)


@pytest.fixture(scope="session")
def method(cls):
    """A very small instance."""
    return cls.tiny()


@pytest.fixture(scope="session")
def case(method):
    """A very small instance with variables, batch and draws."""
    return Case(method)
