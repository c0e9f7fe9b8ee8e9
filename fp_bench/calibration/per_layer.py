"""An alpha of FlashPrefill for each layer of a model, under one limit for the whole model.

1. Profile: one layer alone is sparse, at a few alphas. This gives the layer's loss of quality and its density.
2. Choose: losses of layers add up while they are small. Each layer takes the alpha that minimises
   ``loss + price * density``; a bisection finds the price at which the losses add up to the limit.
3. The file holds these alphas as factors on ``alpha``, so the usual search over alpha, on the whole model, corrects the
   error of the sum.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from math import log
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from fp_bench.calibration.request import TuneRequest
from fp_bench.calibration.trials import Asked, Losses, losses_of, sample_number, trials
from fp_bench.errors import UsageError
from fp_bench.methods.flashprefill import FlashPrefill
from fp_bench.methods.registry import Spec
from fp_bench.models.load import model_facts
from fp_bench.params import write_layers
from fp_bench.records.record import Record

ALPHAS = (0.03, 0.1, 0.3, 0.9)
"""Tried in each layer."""
SAMPLES = 3
"""Pieces of text of each trial."""
GRID = np.geomspace(FlashPrefill.knob.low, FlashPrefill.knob.high, 64)
"""Alphas to choose from; losses and densities between those tried are interpolated."""
PRICES = 1e-9, 1e6
"""Loss a unit of density, between which the bisection looks."""
STEPS = 60

Floats = NDArray[np.float64]
Profile = Mapping[tuple[int, float], Asked]
"""Trials by the layer that alone is sparse, and its alpha."""


def layer_trials(request: TuneRequest, folder: Path) -> Profile:
    """Return the trials of a profile at the shortest length asked for.

    Args:
        request: what is tuned.
        folder: the run folder; files that name one sparse layer are written there.
    """
    layers = model_facts(request.model).layers
    found = {}
    for layer, alpha in product(range(layers), ALPHAS):
        path = folder / "layers" / f"{layer}.json"
        write_layers(path, [float(each == layer) for each in range(layers)])
        setting = Spec("flashprefill", {"alpha": f"{alpha:g}", "alpha_file": str(path)})
        found[layer, alpha] = Asked(setting, min(request.lens), range(SAMPLES))
    return found


def missing(asked: Profile, losses: Losses) -> list[Asked]:
    """Return the trials that are not measured yet."""
    return [each for each in asked.values() if not losses[each.length, str(each.setting)].keys() >= set(each.numbers)]


def factor_file(request: TuneRequest, asked: Profile, records: Sequence[Record], folder: Path) -> Spec:
    """Write a profile's factors and return FlashPrefill with them.

    Raises:
        UsageError: the profile is incomplete.
    """
    losses = losses_of(request, records)
    if missing(asked, losses):
        raise UsageError("the profile of single layers is unfinished; the same command goes on with --out")
    kept = {(each.label, sample_number(each)): each.density_sparse for each in trials(request, records)}
    layers = len(asked) // len(ALPHAS)
    loss, density = np.empty((layers, len(ALPHAS))), np.empty((layers, len(ALPHAS)))
    for (layer, alpha), each in asked.items():
        label, column = str(each.setting), ALPHAS.index(alpha)
        loss[layer, column] = fmean(losses[each.length, label][number] for number in each.numbers)
        density[layer, column] = fmean(kept[label, number] or 1.0 for number in each.numbers)
    path = folder / f"alphas-{request.measure}-{request.limit:g}.json"
    write_layers(path, list(factors(loss, density, request.limit)))
    return Spec("flashprefill", {"alpha_file": str(path)})


def factors(loss: Floats, density: Floats, limit: float) -> Floats:
    """Return a factor on alpha for each layer: 0 where it should be dense, 1 in the geometric mean of the others.

    Args:
        loss: ``[layers, len(ALPHAS)]``, of the whole model with one layer sparse at each of `ALPHAS`.
        density: the same shape, density of that layer.
        limit: largest sum of the losses of all layers.
    """
    # A denser choice never costs more: noise in small losses must not make it look so.
    loss = np.maximum.accumulate(np.maximum(loss, 0), axis=1)
    tried, grid = np.log(ALPHAS), np.log(GRID)
    # Below the smallest alpha tried both go to dense attention: no loss, all kept.
    ends = np.concatenate([[log(FlashPrefill.knob.low)], tried])
    losses = np.array([np.interp(grid, ends, np.concatenate([[0.0], row])) for row in loss])
    kept = np.array([np.interp(grid, ends, np.concatenate([[1.0], row])) for row in density])

    def choice(price: float) -> NDArray[np.int64]:
        return np.asarray((losses + price * kept).argmin(1))

    low, high = PRICES
    for _ in range(STEPS):
        price = (low * high) ** 0.5
        total = np.take_along_axis(losses, choice(price)[:, None], 1).sum()
        low, high = (price, high) if total <= limit else (low, price)
    chosen = choice(low)
    sparse = chosen > 0
    if not sparse.any():
        raise UsageError(
            f"every layer would be dense: at limit {limit:g} none may lose anything, or the length is so short that "
            "FlashPrefill keeps everything; give a larger limit or longer --lens"
        )
    alphas = np.where(sparse, GRID[chosen], 0.0)
    return np.asarray(alphas / np.exp(np.log(alphas[sparse]).mean()))
