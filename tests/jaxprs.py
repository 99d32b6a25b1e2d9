"""What a traced function computes."""

from collections.abc import Iterator
from typing import Any

import jax


def products(jaxpr: Any) -> Iterator[tuple[str, ...]]:
    """Operand types of every matrix product and convolution of a jaxpr, those inside calls too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield tuple(str(v.aval.dtype) for v in equation.invars)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)
