import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.methods.registry import Registry, Spec, create_method, methods

words = st.text(st.characters(categories=["L", "N"], include_characters="_.-"), min_size=1)


@given(name=words, options=st.dictionaries(words, words))
def test_a_spec_reads_back_what_it_writes(name, options):
    spec = Spec(name, options)
    assert Spec.parse(str(spec)) == spec


@pytest.mark.parametrize("text", ["a:b", "a:=1", "a:b=", "a:b=1:b=2", "a::b=1"])
def test_a_bad_spec_names_the_part(text):
    with pytest.raises(UsageError, match="option"):
        Spec.parse(text)


def test_unknown_names_get_the_nearest():
    with pytest.raises(UsageError, match="unknown method 'flashprefil'; did you mean 'flashprefill'"):
        methods.load("flashprefil")


def test_a_plug_in_is_found_by_its_entry_point(odd_methods):
    method = create_method(Spec.parse("window:blocks=3"))
    assert (method.label, method.params.blocks) == ("window:blocks=3", 3)


def test_a_broken_plug_in_is_one_warning_and_only_when_asked_for(odd_methods):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert "broken" in methods.targets()
        create_method(Spec("window"))
        assert not said
        with pytest.raises(UnavailableError, match="'broken' cannot be loaded: ModuleNotFoundError"):
            create_method(Spec("broken"))
    assert len(said) == 1


def test_a_built_in_name_wins_over_a_plug_in(odd_methods):
    registry = Registry("method", "fp_bench.methods", {"window": "fp_bench.methods.dense:Dense"})
    assert registry.load("window").name == "dense"


@pytest.mark.parametrize("name", ["heir", "labelled"])
def test_a_plug_in_that_takes_the_name_of_a_built_in_is_refused(odd_methods, name):
    with pytest.raises(UnavailableError) as caught:
        create_method(Spec(name))
    assert f"{name!r} is of odd-methods (cheats:{name.title()}), which calls itself 'dense', a name of fp_bench" in str(
        caught.value
    )


def test_a_name_of_two_packages_is_refused_with_both(odd_methods, monkeypatch, tmp_path):
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[fp_bench.methods]\nwindow = cheats:Best\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UnavailableError, match=r"comes from several packages, odd-methods \(.*\), other \(cheats:Best\)"
    ):
        create_method(Spec("window"))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("flashprefill:alfa=1", "unknown parameter 'alfa'; did you mean 'alpha'"),
        ("flashprefill:alpha=x", "alpha='x'"),
        ("flashprefill:preset=llama", "unknown preset 'llama'"),
        ("flashprefill:sink_blocks=-1", "sink_blocks="),
        ("dense:preset=x", "it has none"),
        ("dense:impl=fa9", "impl='fa9'"),
    ],
)
def test_bad_parameters_are_one_line(spec, says):
    with pytest.raises(UsageError) as caught:
        create_method(Spec.parse(spec))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
