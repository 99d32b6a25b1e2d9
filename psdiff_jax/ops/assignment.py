"""Minimum-cost assignment on device (the Hungarian problem), with static shapes, under `jit` and `vmap`.

optax has one whose time grows with the padding; this one's steps are as many as the real rows need
(docs/decisions.md has both times).

Legend: M row, N column.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class _Search(NamedTuple):
    """State of `assign`: prices of both sides, which column each row has, and the tree of the row being placed."""

    place: jax.Array  # how many rows have been placed
    row_price: jax.Array  # [M]
    column_price: jax.Array  # [N]
    row_of: jax.Array  # [N] the row that has each column, -1 when free
    column_of: jax.Array  # [M]
    here: jax.Array  # the row that is looked at
    length: jax.Array  # of the shortest path to it
    distance: jax.Array  # [N] shortest path to each column
    source: jax.Array  # [N] the row that path comes from
    closed: jax.Array  # [N] bool
    reached: jax.Array  # [M] bool


def assign(cost: jax.Array, mask: jax.Array) -> jax.Array:
    """Minimum-cost assignment of the real rows to different columns: [M,N] with M <= N, mask [M] -> [M] columns.

    Shortest augmenting paths (Jonker & Volgenant 1987, as Crouse 2016 has them), each step of a search one vector
    operation over the columns. Rows outside the mask get any value. Costs must be finite.
    """
    rows, columns = cost.shape
    order, count = jnp.argsort(~mask, stable=True), mask.sum()

    def begin(search: _Search, place: jax.Array) -> _Search:
        here = order[jnp.minimum(place, rows - 1)]
        return search._replace(
            place=place,
            here=here,
            length=jnp.zeros((), cost.dtype),
            distance=jnp.full(columns, jnp.inf, cost.dtype),
            source=jnp.zeros(columns, jnp.int32),
            closed=jnp.zeros(columns, bool),
            reached=jnp.arange(rows) == here,
        )

    def place_along(path: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        column, row_of, column_of, source, root, _ = path
        row = source[column]
        return column_of[row], row_of.at[column].set(row), column_of.at[row].set(column), source, root, row == root

    def step(search: _Search) -> _Search:
        root = order[search.place]
        through = search.length + cost[search.here] - search.row_price[search.here] - search.column_price
        better = ~search.closed & (through < search.distance)
        distance = jnp.where(better, through, search.distance)
        source = jnp.where(better, search.here, search.source).astype(jnp.int32)
        nearest = jnp.argmin(jnp.where(search.closed, jnp.inf, distance))
        length, closed = distance[nearest], search.closed.at[nearest].set(True)
        found, here = search.row_of[nearest] < 0, search.row_of[nearest]
        reached = search.reached | (~found & (jnp.arange(rows) == here))
        going_on = search._replace(
            here=here, length=length, distance=distance, source=source, closed=closed, reached=reached
        )
        # A free column: settle the prices, move everyone along the path, and go on with the next row.
        rise = length - jnp.where(jnp.arange(rows) == root, 0, distance[search.column_of])
        path = (nearest, search.row_of, search.column_of, source, root, ~found)
        _, row_of, column_of, *_ = jax.lax.while_loop(lambda path: ~path[-1], place_along, path)
        done = begin(
            search._replace(
                row_price=search.row_price + jnp.where(search.reached, rise, 0),
                column_price=search.column_price - jnp.where(closed, length - distance, 0),
                row_of=row_of,
                column_of=column_of,
            ),
            search.place + 1,
        )
        return jax.tree.map(lambda a, b: jnp.where(found, a, b), done, going_on)

    empty = _Search(*[jnp.zeros(())] * len(_Search._fields))._replace(  # `begin` fills in the rest
        row_price=jnp.zeros(rows, cost.dtype),
        column_price=jnp.zeros(columns, cost.dtype),
        row_of=jnp.full(columns, -1, jnp.int32),
        column_of=jnp.zeros(rows, jnp.int32),
    )
    start = begin(empty, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(lambda search: search.place < count, step, start).column_of
