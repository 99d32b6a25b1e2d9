"""Person search as one diffusion process (PSDiff), in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psdiff_jax.api import PersonSearch

__all__ = ["PersonSearch"]


def __getattr__(name: str) -> Any:
    if name == "PersonSearch":  # imported where it is used: the rest of the package starts without it
        from psdiff_jax.api import PersonSearch

        return PersonSearch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
