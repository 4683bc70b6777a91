"""The engine against the twin as users have it compiled: some of the cases of `test_twin`, those with everything on among them."""

import pytest

from tests.systems import GROUPS, random_case
from tests.test_twin import _assert_agree, _rounds


@pytest.mark.parametrize("seed", (1, 4, 7, 10))
@pytest.mark.parametrize("group", ("settling", pytest.param("everything", marks=pytest.mark.slow)))
def test_optimised_programs_agree_too(group, seed):
    _assert_agree(random_case(seed, GROUPS[group]), _rounds(seed))
