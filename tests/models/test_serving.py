"""What an engine asks of a method, and when vLLM is given its backend; inside vLLM: tests/soak/vllm_backend.py."""

import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from fp_bench.errors import UsageError
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.paged.reference import flash_prefill_paged
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.registry import Spec, create_method
from fp_bench.models import vllm_plugin
from fp_bench.models.serving import REQUIRED, VARIABLE, PagedPrefill, layer_number
from tests.kernels.calls import Case, relative_error
from tests.kernels.paged_calls import Sequence, spread


def served(text: str, layers: int = 2) -> PagedPrefill:
    return PagedPrefill(create_method(Spec.parse(text)), layers)


@pytest.fixture(scope="module")
def call():
    cases = [Case(1, 300, 300, 2, 1, 64, seed=1), Case(1, 140, 520, 2, 1, 64, seed=2)]
    return spread(
        [Sequence(*case.tensors(), last_chunk=last) for case, last in zip(cases, (True, False), strict=True)], 64
    )


def fill(prefill, call):
    out = torch.zeros_like(call.q)
    prefill.fill(call.q, call.k, call.v, call.batch, out, scale=call.scale, layer=1)
    return out


def test_flashprefill_reads_the_pages_itself_with_its_parameters(call):
    out = fill(served("flashprefill:alpha=0.5:sink_blocks=0:window_blocks=1:last_full_blocks=1"), call)
    expected = flash_prefill_paged(call.q, call.k, call.v, call.batch, KeepRule(0.5, 0, 1, 1), scale=call.scale)
    assert relative_error(out, expected) < 1e-5


def test_an_alpha_for_each_layer_holds_over_pages_too(call, tmp_path):
    file = tmp_path / "alphas.json"
    file.write_text("[0, 2]")
    text = f"flashprefill:alpha=0.25:alpha_file={file}:sink_blocks=0:window_blocks=1:last_full_blocks=1"
    prefill = PagedPrefill(create_method(Spec.parse(text)), 2, measure_selection=True)
    expected = flash_prefill_paged(call.q, call.k, call.v, call.batch, KeepRule(0.5, 0, 1, 1), scale=call.scale)
    assert relative_error(fill(prefill, call), expected) < 1e-5
    dense = torch.zeros_like(call.q)
    prefill.fill(call.q, call.k, call.v, call.batch, dense, scale=call.scale, layer=0)
    assert relative_error(dense, fill(served("flashprefill:alpha=0"), call)) < 1e-5
    layers = prefill.counts.layers
    assert (layers[0].sparse, layers[0].dense) == (0, {"alpha is 0 in this layer": 2})
    assert (layers[1].sparse, layers[1].dense) == (1, {})
    assert (layers[0].density(), prefill.counts.sparse_layers) == (1.0, 1)
    assert layers[1].density() < 1
    with pytest.raises(UsageError, match="has 2 layers; the model has 3"):
        served(text, layers=3)


def test_options_that_pages_lack_are_refused():
    for option in ("skip=0.5", "rule=topk", "correction=True", "dense_above=0.5"):
        with pytest.raises(UsageError, match=f"flashprefill:{option}: "):
            served(f"flashprefill:{option}")


def test_any_other_method_takes_one_sequence_after_the_other(call):
    prefill = served("xattention")
    out = fill(prefill, call)
    for sequence, rows in zip(call.sequences, (slice(3, 303), slice(303, 443)), strict=True):
        alone = AttentionCall(
            sequence.q, sequence.k, sequence.v, call.scale, layer=1, layers=2, last_chunk=sequence.last_chunk
        )
        torch.testing.assert_close(out[rows], prefill.method(alone)[0], atol=1e-5, rtol=1e-5)


def test_what_a_method_does_not_take_runs_dense_and_says_so(call):
    with pytest.warns(UserWarning, match="streaming ran dense: streaming is defined for whole prompts"):
        out = fill(served("streaming"), call)
    chunk = slice(303, 443)
    assert relative_error(out[chunk], fill(served("flashprefill:alpha=0"), call)[chunk]) < 1e-5


def test_short_contexts_and_dense_are_left_to_the_engine():
    prefill = served("flashprefill:sink_blocks=2:window_blocks=4")
    assert not prefill.takes(6 * 128)
    assert prefill.takes(6 * 128 + 1)
    assert not served("flashprefill:dense_below=4096").takes(4095)
    assert served("flashprefill:dense_below=4096").takes(4096)
    assert served("xattention").takes(1)
    assert not served("dense").takes(10**6)


def test_the_environment_names_the_method(monkeypatch):
    monkeypatch.setenv(VARIABLE, "flashprefill:alpha=0.3")
    assert PagedPrefill.from_environment(1).method.label == "flashprefill:alpha=0.3"
    monkeypatch.delenv(VARIABLE)
    assert PagedPrefill.from_environment(1).method.label == "flashprefill"
    monkeypatch.setenv(VARIABLE, "flashprefil")
    with pytest.raises(UsageError, match="did you mean 'flashprefill'"):
        PagedPrefill.from_environment(1)
    with pytest.raises(UsageError, match="dense_above"):
        served("flashprefill:dense_above=0.5")
    for other in ("flashprefill:rule=topk", "flashprefill:correction=true", "flashprefill:precision=fp8"):
        with pytest.raises(UsageError, match="only its threshold rule"):
            served(other)


def test_a_lost_variable_is_refused_where_a_method_is_required(monkeypatch):
    monkeypatch.setenv(REQUIRED, "1")
    monkeypatch.setenv(VARIABLE, "flashprefill:alpha=0.3")
    assert PagedPrefill.from_environment(1).method.label == "flashprefill:alpha=0.3"
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(UsageError, match="set it for every worker"):
        PagedPrefill.from_environment(1)
    monkeypatch.setenv(REQUIRED, "0")
    PagedPrefill.from_environment(1)


def test_the_method_is_logged_once_a_process(monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, "flashprefill:alpha=0.2718")
    with caplog.at_level("INFO"):
        for _ in range(3):
            PagedPrefill.from_environment(3)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == "prefill attention by flashprefill:alpha=0.2718 (FPBENCH_METHOD)"


def test_a_layers_number_is_read_from_its_name():
    assert layer_number("model.layers.3.self_attn.attn") == 3
    assert layer_number("encoder.17") == 17
    assert layer_number("attention") == 0


@pytest.fixture
def vllm(monkeypatch):
    """Stand-ins for vLLM's version and its registry of backends."""

    class Custom:
        path = None

        def is_overridden(self):
            return self.path is not None

        def get_path(self):
            return self.path

    custom = Custom()
    registry = ModuleType("registry")
    registry.AttentionBackendEnum = SimpleNamespace(CUSTOM=custom)
    registry.register_backend = lambda backend, path: setattr(backend, "path", path)
    for name in ("vllm", "vllm.v1", "vllm.v1.attention", "vllm.v1.attention.backends"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.v1.attention.backends.registry", registry)
    monkeypatch.setattr(vllm_plugin, "version", lambda _: "0.26.3")
    return custom


@pytest.mark.parametrize("found", ["0.26.3", "0.29.0", "0.33.0rc1"])
def test_vllm_is_given_the_backend_by_name_as_often_as_it_asks(vllm, monkeypatch, found):
    monkeypatch.setattr(vllm_plugin, "version", lambda _: found)
    vllm_plugin.register()
    vllm_plugin.register()
    assert vllm.path == vllm_plugin.BACKEND


@pytest.mark.parametrize("found", ["0.25.1", "0.34.0", "1.26.0"])
def test_another_vllm_is_named_and_left_alone(vllm, monkeypatch, found):
    monkeypatch.setattr(vllm_plugin, "version", lambda _: found)
    with pytest.warns(
        UserWarning, match=rf"vLLM {found} is not one of the supported versions, 0\.26 to 0\.33$"
    ) as told:
        vllm_plugin.register()
    assert len(told) == 1
    assert vllm.path is None


def test_the_extra_installs_the_versions_of_the_table_and_no_other():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (asked,) = map(Requirement, project["project"]["optional-dependencies"]["vllm"])
    found = [f"0.{minor}" for minor in range(60) if asked.specifier.contains(f"0.{minor}.1")]
    assert found == list(vllm_plugin.VERSIONS)


def test_another_plugins_backend_is_not_replaced(vllm):
    vllm.path = "other.Backend"
    with pytest.warns(UserWarning, match=r"CUSTOM is other\.Backend; set VLLM_PLUGINS=fp_bench"):
        vllm_plugin.register()
    assert vllm.path == "other.Backend"
