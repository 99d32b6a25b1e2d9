"""The bound on the tests' own memory."""

import jax
import jax.numpy as jnp

from .conftest import drop_programs, resident


def test_what_a_module_compiled_is_dropped(monkeypatch):
    function = jax.jit(lambda x: x + 1)
    function(jnp.zeros(3))
    assert function._cache_size() == 1
    drop_programs(above=resident() * 2)
    assert function._cache_size() == 1
    drop_programs(above=0)
    assert function._cache_size() == 0
    assert function(jnp.zeros(3)).tolist() == [1, 1, 1]
