"""The search of `tune` on published losses of a pretrained model: its settings keep to the limit on unseen pieces."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from fp_bench.calibration.search import Trial, next_step
from fp_bench.calibration.trials import sample_number
from fp_bench.methods.registry import Spec
from fp_bench.records.record import AccuracyRecord
from fp_bench.records.store import read_run

RUN = Path(__file__).parents[2] / "results/real/qwen2.5-coder-1.5b-mixed"
PIECES, SEARCHED, REPEATS = 16, 8, 60


@pytest.fixture(scope="module")
def losses():
    found = defaultdict(dict)
    for record in read_run(RUN).records:
        if isinstance(record, AccuracyRecord) and record.seq_len == 32768:
            found[record.label][sample_number(record)] = record.kl
    return found


def search(candidates, losses, order, limit):
    """Return the setting found, and how many samples that took."""
    given = {str(each): [] for each in candidates}
    while isinstance(step := next_step(candidates, given, limit, SEARCHED), Trial):
        given[str(step.setting)] = [losses[str(step.setting)][piece] for piece in order[: step.samples]]
    return step.setting, sum(map(len, given.values()))


@pytest.mark.parametrize("limit", [0.02, 0.05])
@pytest.mark.parametrize("method", ["flashprefill", "rbs", "xattention"])
def test_nine_of_ten_hold_the_limit_on_other_pieces_at_less_than_the_grids_cost(losses, method, limit):
    labels = [label for label in losses if label.partition(":")[0] == method and "correction" not in label]
    candidates = [Spec.parse(label) for label in sorted(labels, key=lambda label: fmean(losses[label].values()))]
    draw, held, costs = np.random.default_rng(0), [], []
    for _ in range(REPEATS):
        order = draw.permutation(PIECES)
        found, cost = search(candidates, losses, order, limit)
        assert found is not None
        held.append(fmean(losses[str(found)][piece] for piece in order[SEARCHED:]) <= limit)
        costs.append(cost)
    assert fmean(held) >= 0.9
    assert fmean(costs) < SEARCHED * len(candidates) * (0.4 if len(candidates) > 5 else 0.7)


@pytest.mark.parametrize(("method", "limit"), [("flashprefill", 0.05), ("xattention", 0.05), ("rbs", 0.05)])
def test_with_all_pieces_it_agrees_with_the_grid_within_one_setting(losses, method, limit):
    labels = [label for label in losses if label.partition(":")[0] == method and "correction" not in label]
    ordered = sorted(labels, key=lambda label: fmean(losses[label].values()))
    of_grid = max(i for i, label in enumerate(ordered) if fmean(losses[label].values()) <= limit)
    found, _ = search([Spec.parse(label) for label in ordered], losses, range(PIECES), limit)
    assert of_grid - ordered.index(str(found)) in (0, 1)
