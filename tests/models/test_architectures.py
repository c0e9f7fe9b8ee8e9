"""Every causal architecture under sparse prefill is itself, or is refused."""

import sys
from collections import Counter

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.models.toy import NotBuilt, through_method, toy

OWN = "the model's own selection"
NAMED = {
    "deepseek_v32": OWN,
    "glm_moe_dsa": OWN,
    "axk2": OWN,
    "minimax_m3_vl_text": OWN,
    "hy_v4": OWN,
    "deepseek_v4": "attention sinks",
    "gpt_oss": "attention sinks",
    "granite_swa": "attention sinks",
    "mimo_v2_flash": "attention sinks",
}
"""Models that select keys themselves, extend their mask or run eager alone, and why their layers run dense."""


@pytest.mark.parametrize("architecture", NAMED)
def test_models_with_their_own_selection_or_mask_stay_themselves(architecture: str) -> None:
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        pytest.skip(f"this transformers has no {architecture}")
    model, ids, expected = toy(architecture)
    found = through_method(model, ids)
    assert not isinstance(found, str)
    logits, counts = found
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert counts.dense[NAMED[architecture]] >= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_causal_architecture_is_itself_or_refused() -> None:
    outcomes: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    for architecture in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        try:
            model, ids, expected = toy(architecture)
        except NotBuilt as problem:
            outcomes["not built"] += 1
            print(f"{architecture}: not built: {problem!s:.200}", file=sys.stderr)
            continue
        try:
            found = through_method(model, ids)
        except Exception as error:
            wrong[architecture] = f"{type(error).__name__}: {error}"
            continue
        if isinstance(found, str):
            outcomes["refused"] += 1
            continue
        if not found[1].layers:
            wrong[architecture] = "no attention call went through the method"
            continue
        gap = float((found[0] - expected).abs().max())
        if gap > 1e-5 * max(1.0, float(expected.abs().max())):
            wrong[architecture] = f"differs by {gap:.2g}"
        else:
            outcomes["itself"] += 1
    print(dict(outcomes), file=sys.stderr)
    assert not wrong
    assert outcomes["itself"] >= 124
