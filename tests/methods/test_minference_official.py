"""MInference on the package of its authors: what its operators are handed, with a stand-in that computes the same."""

import json
import sys
from types import ModuleType

import pytest
import torch

from fp_bench.errors import UnavailableError, UnsupportedError
from fp_bench.jobs.latency.definition import dense_truth
from fp_bench.jobs.latency.measure import check
from fp_bench.jobs.latency.timers import WallClock
from fp_bench.kernels.attention import reference
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.lines import reference as defined
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.minference.official import MInferenceOfficial
from fp_bench.methods.registry import Spec, create_method
from tests.kernels.calls import relative_error
from tests.methods.test_rivals import a_call

PATTERNS = {
    "0": ["vertical_and_slash", 40, 110, 1.0],
    "1": ["stream_llm", 20, 300, 1.0],
    "2": ["block_sparse", 6, 1, 1.0],
    "3": ["vertical_and_slash", 2000, 60, 1.0],
}


class StandIn(ModuleType):
    """Operators of the package's names, arguments and layout, ``[1, 1, kv_len, head_dim]``, in plain torch."""

    def __init__(self):
        super().__init__("minference")
        self.called = []

    def vertical_slash_sparse_attention(self, q, k, v, v_idx, s_idx):
        assert v_idx.shape[:2] == s_idx.shape[:2] == (1, 1)
        self.called.append(("lines", v_idx.shape[2], s_idx.shape[2]))
        lines = v_idx.flatten().sort().values.tolist(), s_idx.flatten().sort(descending=True).values.tolist()
        return attention(q, k, v, defined.lines_mask(defined.convert(*lines, q.shape[2]), q.shape[2]))

    def streaming_forward(self, q, k, v, n_init, n_local):
        self.called.append(("a_shape", n_init, n_local))
        return attention(q, k, v, defined.a_shape_mask(q.shape[2], n_init, n_local))

    def block_sparse_attention(self, q, k, v, top_k):
        self.called.append(("blocks", top_k))
        blocks = defined.strongest_blocks(q.transpose(1, 2), k.transpose(1, 2), top_k)[0, 0]
        mask = blocks.repeat_interleave(64, 0).repeat_interleave(64, 1)[: q.shape[2], : q.shape[2]]
        return attention(q, k, v, mask.tril())


def attention(q, k, v, mask):
    assert q.shape[:2] == k.shape[:2] == v.shape[:2] == (1, 1)
    assert all(tensor.is_contiguous() for tensor in (q, k, v))
    logits = q.float() @ k.float().mT * q.shape[-1] ** -0.5
    return (logits.masked_fill(~mask, -torch.inf).softmax(-1) @ v.float()).to(q.dtype)


@pytest.fixture
def package(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "minference", stand_in)
    monkeypatch.setattr(MInferenceOfficial, "DEVICE", "cpu")
    return stand_in


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "patterns.json"
    path.write_text(json.dumps([PATTERNS]))
    return path


def half_call(**changes):
    return a_call(dtype=torch.float16, **({"q_len": 700, "kv_len": 700} | changes))


def test_each_head_is_handed_to_the_operator_of_its_kind(package, config):
    method, call = create_method(Spec.parse(f"minference_official:config={config}")), half_call(batch=2)
    index = method.select(call)
    assert package.called == []
    out = method.attend(call, index)
    each = [("lines", 40, 110), ("a_shape", 20, 300), ("blocks", 6), ("lines", 700, 60)]
    assert package.called == [one for one in each for _ in range(2)]
    assert method.implementation(call, index) == "minference"
    assert (out.shape, out.dtype) == (call.q.shape, call.q.dtype)
    exact = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index).out
    assert relative_error(out, exact) < 5e-3
    ours = create_method(Spec.parse(f"minference:config={config}")).select(call)
    assert torch.equal(index.entries(), ours.entries())
    assert torch.equal(index.density(), ours.density())
    assert torch.equal(index.kept_blocks(2), ours.kept_blocks(2))


def test_it_is_checked_as_any_method_is(package, config):
    method, call = MInferenceOfficial.from_options({"config": str(config)}), half_call()
    findings = check(method, call, dense_truth(call, 0), WallClock()).findings
    assert (findings.backend, findings.fallback) == ("minference", False)
    assert findings.density_by_head[3] == 1 > findings.density


def test_one_query_and_less_than_a_tile_are_dense(package):
    for call in (half_call(q_len=1), half_call(q_len=63, kv_len=63)):
        method = MInferenceOfficial()
        assert method.unsupported(call) is None
        assert method.select(call) is None
        assert method.implementation(call, None) == "sdpa_cpu"
        assert method(call).shape == call.q.shape


def test_what_the_package_does_not_take_is_refused_in_a_line(package):
    method, call = MInferenceOfficial(), half_call()
    assert method.unsupported(call) is None
    scaled = AttentionCall(call.q, call.k, call.v, scale=0.5)
    for refused, reason in [
        (a_call(), "not float32"),
        (half_call(head_dim=256), "head_dim 256"),
        (scaled, "scale 0.5"),
        (half_call(q_len=500), "whole prompts"),
    ]:
        assert reason in method.unsupported(refused)
    given = BlockIndex.from_mask(torch.ones(1, 4, 6, 6, dtype=torch.bool), 700, 700)
    with pytest.raises(UnsupportedError, match="not over a BlockIndex"):
        method.attend(call, given)


def test_where_it_does_not_run_it_says_so_in_a_line(monkeypatch):
    call = half_call()
    with pytest.raises(UnavailableError, match="runs on cuda, not on cpu"):
        MInferenceOfficial()(call)
    monkeypatch.setattr(MInferenceOfficial, "DEVICE", "cpu")
    # None in sys.modules is what import takes for a package that is not there.
    monkeypatch.setitem(sys.modules, "minference", None)
    with pytest.raises(UnavailableError, match=r"not installed; pip install 'fp_bench\[minference\]'"):
        MInferenceOfficial()(call)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("import no_such_package_xyz", "needs no_such_package_xyz"),
        ("print('buy more')\nraise RuntimeError('two\\nlines')", "does not import: RuntimeError: two lines"),
    ],
)
def test_a_package_that_does_not_import_is_one_line(monkeypatch, tmp_path, capsys, content, reason):
    (tmp_path / "minference.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "minference", raising=False)
    monkeypatch.setattr(MInferenceOfficial, "DEVICE", "cpu")
    with pytest.raises(UnavailableError, match=reason):
        MInferenceOfficial().select(half_call())
    assert capsys.readouterr().out == ""


@pytest.mark.gpu
def test_the_package_attends_over_what_our_index_says(config):
    pytest.importorskip("minference")
    method = MInferenceOfficial.from_options({"config": str(config)})
    call = a_call("cuda", q_len=5000, kv_len=5000, dtype=torch.bfloat16)
    index = method.select(call)
    exact = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index).out
    out = method.attend(call, index)
    # The package chooses the blocks of head 2 for itself, by products rounded to bfloat16.
    for head, limit in enumerate((1e-2, 1e-2, 5e-2, 1e-2)):
        assert relative_error(out[:, :, head], exact[:, :, head]) < limit
