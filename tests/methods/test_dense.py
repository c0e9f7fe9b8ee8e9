import pytest
import torch

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.kernels.attention import reference
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.dense import Dense, implementations, unavailable
from tests.kernels.calls import Case, relative_error


@pytest.mark.parametrize(("q_len", "kv_len"), [(300, 300), (77, 300), (1, 300)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_dense_on_the_cpu_is_exact_attention(q_len, kv_len, dtype, tolerance):
    case = Case(q_len=q_len, kv_len=kv_len, q_heads=4, kv_heads=2, dtype=dtype)
    q, k, v = case.tensors()
    call = AttentionCall(q, k, v, case.scale)
    dense = Dense()
    assert dense.select(call) is None
    assert relative_error(dense(call), reference.attention(q, k, v, scale=case.scale).out) < tolerance
    assert dense.implementation(call, None) == "sdpa_cpu"


def test_an_implementation_that_is_not_here_says_why():
    q, k, v = Case().tensors()
    with pytest.raises(UnavailableError, match="runs on cuda, not on cpu"):
        Dense.from_options({"impl": "cudnn"})(AttentionCall(q, k, v, 0.125))
    assert (
        "flash_attn" in str(unavailable("flash_attn", torch.device("cuda")))
        or unavailable("flash_attn", torch.device("cuda")) is None
    )


def test_a_package_that_fails_to_import_is_one_line_and_no_more(tmp_path, monkeypatch):
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("raise ImportError('undefined symbol: x\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    said = unavailable("fa4", torch.device("cuda"))
    assert said == "dense:impl=fa4 needs the package flash_attn.cute, which fails to import: undefined symbol: x"


def test_unknown_implementation_is_a_usage_error_that_lists_them():
    with pytest.raises(UsageError, match="impl='cudn'"):
        Dense.from_options({"impl": "cudn"})


def test_auto_compares_only_implementations_that_exist():
    assert set(Dense.PROBED) <= set(implementations())


def test_auto_decides_once_for_prompts_of_about_one_length(monkeypatch):
    fastest = iter(["cudnn", "fa2", "fa3"])
    monkeypatch.setattr("fp_bench.methods.dense.unavailable", lambda *_: None)
    monkeypatch.setattr(Dense, "_find_fastest", lambda *_: next(fastest))

    def found(kv_len, q_len=None):
        case = Case(q_len=q_len or kv_len, kv_len=kv_len)
        return dense.implementation(AttentionCall(*case.tensors(), case.scale), None)

    dense = Dense()
    assert [found(length) for length in (300, 511, 512)] == ["cudnn"] * 3
    assert found(513) == "fa2"
    # cuDNN takes whole prompts alone: chunks are another choice.
    assert found(512, 400) == "fa3"


def test_auto_looks_for_packages_once_and_not_at_every_call(monkeypatch):
    asked = []
    monkeypatch.setattr("fp_bench.methods.dense.unavailable", lambda impl, _: asked.append(impl))
    monkeypatch.setattr(Dense, "_find_fastest", lambda *_: "cudnn")
    case, dense = Case(q_len=300, kv_len=300), Dense()
    call = AttentionCall(*case.tensors(), case.scale)
    dense.implementation(call, None)
    looked = len(asked)
    dense.implementation(call, None)
    assert looked > 0
    assert len(asked) == looked


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["auto", "cudnn", "fa2", "flex_attention"])
def test_dense_on_a_gpu_is_exact_attention(impl):
    case = Case(batch=2, q_len=1000, kv_len=1000, q_heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    q, k, v = case.tensors("cuda")
    dense = Dense.from_options({"impl": impl})
    call = AttentionCall(q, k, v, case.scale)
    assert relative_error(dense(call), reference.attention(q, k, v, scale=case.scale).out) < 1e-2
    assert dense.implementation(call, None) in implementations()
