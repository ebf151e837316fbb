"""Scratch memory that all prepared layers share."""

from __future__ import annotations

import itertools
import os

import numba
import pytest

from cnnforge_kernels.cpu.prepared.scratch import (
    free_scratch,
    scratch_address,
    scratch_pool,
    take_scratch,
)


@pytest.mark.parametrize("needed", [1, 512 * 1024, 512 * 1024 + 1, 3_000_000])
def test_slots_are_apart_and_aligned(needed):
    pool = scratch_pool(needed)
    slots = [take_scratch(pool) for _ in range(2 * numba.config.NUMBA_NUM_THREADS)]
    addresses = sorted(scratch_address(pool, slot) for slot in slots)
    assert len(set(slots)) == len(slots)
    assert all(address % 64 == 0 for address in addresses)
    assert all(b - a >= needed for a, b in itertools.pairwise(addresses))
    # The only slot that is free is taken.
    free_scratch(pool, slots[-1])
    assert take_scratch(pool) == slots[-1]
    for slot in slots:
        free_scratch(pool, slot)


def test_a_pool_is_made_once():
    assert scratch_pool(1) == scratch_pool(400_000) != scratch_pool(600_000)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_all_slots_are_free_in_a_forked_process():
    pool = scratch_pool(1)
    slots = [take_scratch(pool) for _ in range(2 * numba.config.NUMBA_NUM_THREADS)]
    child = os.fork()
    if child == 0:
        taken = {take_scratch(pool) for _ in slots}
        os._exit(0 if taken == set(slots) else 1)
    _, status = os.waitpid(child, 0)
    for slot in slots:
        free_scratch(pool, slot)
    assert os.waitstatus_to_exitcode(status) == 0
