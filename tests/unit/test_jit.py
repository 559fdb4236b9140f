"""Compilation where no machine code can be kept."""

import numpy as np
import pytest
from numba import njit

from lorasweep.features.numerics.jit import compiled


def test_a_function_whose_code_cannot_be_kept_is_compiled_all_the_same():
    """Numba has no place for a function without a file, as it has none for a user without a home
    whose packages belong to somebody else."""
    scope = {}
    exec("def double(values):\n    return values * 2", scope)
    with pytest.raises(RuntimeError, match="no locator available"):
        njit(cache=True)(scope["double"])
    found = compiled(error_model="numpy")(scope["double"])(np.arange(3.0))
    assert found.tolist() == [0.0, 2.0, 4.0]
