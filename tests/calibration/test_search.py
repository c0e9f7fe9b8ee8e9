"""The search for the sparsest setting within a limit: decisions, their risk, and what is asked next."""

import math

import numpy as np
import pytest

from fp_bench.calibration.search import RISK, Decision, Settled, Trial, decide, looks, next_step, settings
from fp_bench.methods.base import Knob
from fp_bench.methods.registry import Spec

ALPHA = Knob("alpha", 0.005, 1.0, keeps="less", scale="log")
LIMIT = 0.02


def searched(candidates, loss_of, limit=LIMIT, most=16):
    """Run a whole search; return what it settled on and the samples it took."""
    losses = {str(setting): [] for setting in candidates}
    while isinstance(step := next_step(candidates, losses, limit, most), Trial):
        known = losses[str(step.setting)]
        known += [loss_of(candidates.index(step.setting), sample) for sample in range(len(known), step.samples)]
    return step.setting, sum(map(len, losses.values()))


def test_settings_run_from_the_densest_to_the_sparsest():
    alphas = [float(spec.options["alpha"]) for spec in settings(Spec("flashprefill", {"correction": "true"}), ALPHA, 5)]
    assert alphas == sorted(alphas)
    assert (alphas[0], alphas[-1]) == (0.005, 1.0)
    taus = settings(Spec("xattention"), Knob("tau", 0.3, 0.9, keeps="more"), 3)
    assert [spec.options["tau"] for spec in taus] == ["0.9", "0.6", "0.3"]
    widths = settings(Spec("streaming"), Knob("n_local", 1, 4, keeps="more", scale="log", whole=True), 16)
    assert [spec.options["n_local"] for spec in widths] == ["4", "3", "2", "1"]


@pytest.mark.parametrize(("most", "expected"), [(4, [4]), (5, [4, 5]), (16, [4, 8, 16]), (24, [4, 8, 16, 24])])
def test_looks_double_up_to_the_most(most, expected):
    assert looks(most) == expected


def test_a_clear_search_finds_the_last_setting_within_the_limit_with_few_samples():
    candidates = settings(Spec("flashprefill"), ALPHA)
    found, taken = searched(candidates, lambda place, sample: 0.002 * (place + 1) + 1e-5 * (sample % 2))
    assert found == candidates[8]  # loses 0.018; the next would lose 0.02 and stay undecided
    assert taken < 4 * len(candidates)


def test_what_no_setting_meets_and_what_every_setting_meets():
    candidates = settings(Spec("flashprefill"), ALPHA)
    assert searched(candidates, lambda *_: 1.0)[0] is None
    assert searched(candidates, lambda *_: 0.0)[0] == candidates[-1]


def test_a_sample_that_fails_rules_its_setting_out():
    assert decide([0.0, 0.0, math.inf, 0.0], LIMIT, 0.01) is Decision.EXCEEDS


def test_a_search_goes_on_from_what_is_measured():
    candidates = settings(Spec("flashprefill"), ALPHA)
    first = next_step(candidates, {}, LIMIT, 16)
    assert first == Trial(candidates[7], 4)
    assert next_step(candidates, {str(candidates[7]): [0.0, 0.001, 0.0, 0.001]}, LIMIT, 16) == Trial(candidates[11], 4)
    undecided = {str(candidates[7]): [0.0, 0.04, 0.0, 0.04]}
    assert next_step(candidates, undecided, LIMIT, 16) == Trial(candidates[7], 8)
    assert next_step(candidates[7:8], {str(candidates[7]): [0.0, 0.04] * 8}, LIMIT, 16) == Settled(None)


def test_the_setting_found_meets_the_limit_as_often_as_is_promised():
    """Losses of samples are long-tailed, as divergences are; the mean loss of setting k is 0.004 (k + 1)."""
    candidates, draw = settings(Spec("flashprefill"), ALPHA), np.random.default_rng(5)
    found = []
    for _ in range(300):
        noise = draw.gamma(4.0, 0.25, (len(candidates), 16))
        found.append(
            searched(candidates, lambda place, sample, noise=noise: 0.004 * (place + 1) * noise[place, sample])[0]
        )
    means = [0.0 if setting is None else 0.004 * (candidates.index(setting) + 1) for setting in found]
    assert np.mean([mean > LIMIT for mean in means]) <= RISK
    assert np.mean([mean >= 0.5 * LIMIT for mean in means]) > 0.8
