"""When a run is stopped, and when it is not."""

import math

import pytest

from vfi_core.training.settings import TrainConfig
from vfi_core.training.watch import FEWEST, PATIENCE, SKIPPED, Diverged, Watch

USUAL = [0.5 + 0.01 * (i % 7) for i in range(FEWEST)]


def test_a_loss_or_a_gradient_that_is_no_number_stops_at_once():
    with pytest.raises(Diverged, match=r"the loss is nan at step 3; lower lr \(0.0005\), lengthen warmup"):
        Watch(TrainConfig()).see(3, math.nan, 1.0)
    with pytest.raises(Diverged, match="the gradient is inf at step 3"):
        Watch(TrainConfig()).see(3, 0.5, math.inf)


def test_float16_may_overflow_now_and_then_but_not_for_ever():
    watch = Watch(TrainConfig(precision="float16"), USUAL)
    for step in range(SKIPPED):
        watch.see(step, 0.5, math.inf)
    assert not watch.calm
    watch.see(SKIPPED, 0.5, 1.0)
    assert watch.calm
    with pytest.raises(Diverged, match="precision = 'bfloat16'"):
        for step in range(SKIPPED + 1):
            watch.see(step, 0.5, math.inf)


def test_a_loss_far_above_its_median_stops_after_a_while():
    watch = Watch(TrainConfig(explode=4.0), USUAL)
    for step in range(PATIENCE - 1):
        watch.see(step, 3.0, 1.0)
        assert not watch.calm  # such a state is not worth keeping
    with pytest.raises(Diverged, match="above 4 times its median of 0.5"):
        watch.see(PATIENCE, 3.0, 1.0)


def test_noisy_batches_and_a_high_start_are_no_explosion():
    watch = Watch(TrainConfig(explode=4.0), [30.0, *USUAL])
    for step in range(10 * PATIENCE):
        watch.see(step, 30.0 if step % PATIENCE else 0.5, 1.0)
    assert not watch.calm
    watch.see(1, 0.5, 1.0)
    assert watch.calm


def test_high_losses_do_not_raise_what_is_usual():
    watch = Watch(TrainConfig(explode=4.0), USUAL)
    for step in range(PATIENCE - 1):
        watch.see(step, 2.5, 1.0)
    watch.see(PATIENCE, 0.5, 1.0)
    with pytest.raises(Diverged):
        for step in range(PATIENCE):
            watch.see(step, 2.5, 1.0)
