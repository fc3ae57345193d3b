"""Torch's number of threads is what it was, whatever happened in between."""

from __future__ import annotations

import threading

import pytest
import torch
from joblib import Parallel, delayed

from rnnforecast.training.threads import allowed_threads, at_most_threads, useful_threads


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_limited_inside_and_restored():
    with at_most_threads(2):
        assert torch.get_num_threads() == 2
        with at_most_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with at_most_threads(3):  # never more than outside
            assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4
    with at_most_threads(9):
        assert torch.get_num_threads() == 4
    assert torch.get_num_threads() == 4


def test_restored_after_an_error():
    with pytest.raises(KeyboardInterrupt), at_most_threads(1):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 4


def seen_by_a_new_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_threads_that_overlap_restore_what_the_first_one_found():
    """In the order that breaks save and restore: the second enters inside the first and leaves
    after it.
    """
    second_in, first_out = threading.Event(), threading.Event()
    seen = []

    def second():
        with at_most_threads(1):
            second_in.set()
            first_out.wait(10)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=second)
    with at_most_threads(1):
        thread.start()
        assert second_in.wait(10)
    assert torch.get_num_threads() == 4
    first_out.set()
    thread.join()
    assert seen == [4]
    assert torch.get_num_threads() == 4
    assert seen_by_a_new_thread() == 4


def test_within_joblibs_threads():
    def work(k):
        with at_most_threads(1):
            (torch.ones(50, 50) @ torch.ones(50, 50)).sum()
            return torch.get_num_threads()

    with at_most_threads(2):
        assert (
            Parallel(n_jobs=3, require="sharedmem")(delayed(work)(k) for k in range(9)) == [1] * 9
        )
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4
    assert seen_by_a_new_thread() == 4


def test_small_work_is_for_one_thread():
    assert useful_threads(32, 32) == 1
    assert useful_threads(512, 256) == 4


def test_a_limit_everywhere_holds_after_another_threads_own():
    def fit(k):
        before = allowed_threads()
        with at_most_threads(1):
            (torch.ones(50, 50) @ torch.ones(50, 50)).sum()
        return before, allowed_threads(), torch.get_num_threads()

    with at_most_threads(2, everywhere=True):
        seen = Parallel(n_jobs=2, require="sharedmem")(delayed(fit)(k) for k in range(6))
    assert seen == [(2, 2, 2)] * 6
    assert torch.get_num_threads() == 4
