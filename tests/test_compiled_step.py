"""What the compiled step is made of: no floating-point sums that depend on the order of threads, and the same bits every time.

A scatter-add is contended when two of its updates may go to one index: on a GPU they are atomic additions, whose order, and with it the last bits
of a floating-point sum, differs from run to run, and whose speed falls with the number that collide. In the text of the compiled program such a
scatter has no `unique_indices=true`. None is allowed here.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine.simulate import advance, all_channels, initial_state, residual_tolerance
from stresslev.engine.types import cast
from tests.systems import engine_arguments, random_case

#: `%name = f32[6,8]{1,0} scatter(...), ..., unique_indices=true, to_apply=...`; metadata may name a path, so it is cut off first.
_SCATTER = re.compile(r"= (\w+)\[([\d,]*)\]\S* scatter\((.*)$")
_SEED = 2


def _scatters(text: str) -> list[tuple[str, int, bool]]:
    """(type of element, elements of the result, whether indices are promised to be unique) of every scatter in a compiled program."""
    found = []
    for line in text.splitlines():
        match = _SCATTER.search(line.split(", metadata=")[0])
        if match:
            size = int(np.prod([int(n) for n in match[2].split(",") if n]))
            found.append((match[1], size, "unique_indices=true" in match[3]))
    return found


@pytest.fixture(scope="module")
def program():
    """The compiled thin step in float32, and what makes its arguments."""
    case = engine_arguments(*random_case(_SEED), dtype=np.float32)
    system, policy, population, path = (cast(x, jnp.float32) for x in case[:4])

    def arguments():
        state = jax.tree.map(jnp.copy, initial_state(system, (population,), policy=policy))
        return state, system, policy, all_channels(jnp.float32), path, jnp.int32(3), residual_tolerance(state, system)

    return advance.lower(*arguments()).compile(), arguments


def test_no_scatter_of_the_compiled_step_adds_floating_point_numbers_at_indices_that_may_coincide(program):
    compiled, _ = program
    found = _scatters(compiled.as_text())
    assert len(found) >= 2, "accounts under margin are scattered back, so the text is not read as it should be"
    for element, size, unique in found:
        assert unique, f"a scatter of {element} with {size} elements may have colliding indices"


def test_a_contended_scatter_add_would_be_seen_in_the_compiled_text():
    def contended(x, where):
        return jnp.zeros((4,), jnp.float32).at[where].add(x)

    text = jax.jit(contended).lower(jnp.ones((64,), jnp.float32), jnp.zeros((64,), jnp.int32)).compile().as_text()
    assert ("f32", 4, False) in _scatters(text)


def test_the_same_program_gives_the_same_bits_twice(program):
    compiled, arguments = program
    first, second = (jax.tree.leaves(jax.device_get(compiled(*arguments()))) for _ in range(2))
    assert any(np.any(x) for x in first)
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes()
