import pytest

from fp_bench.errors import UsageError
from fp_bench.reports.papers.figure import PaperFigure
from fp_bench.reports.papers.judge import Judgement, judge
from fp_bench.reports.papers.measured import read_measured
from fp_bench.reports.papers.tolerance import tolerance
from fp_bench.reports.papers.wording import ours, where
from tests.records.records import dense, failed, timed, write

K = 1024


def figure(**form):
    """A figure of one statement; a speed-up of 2 at 4K and of 4 at 8K is published, where half is kept."""
    kept = {"4k": 0.5, "8k": 0.5}
    return PaperFigure(
        name="f", title="t", paper="p", place="here", theirs="a GPU", setting={"input": "structured"}, axis="y",
        quantity="speedup_fa2",
        published={
            "speedup_fa2": {"flashprefill": {"4k": 2.0, "8k": 4.0}, "xattention": {"4k": 1.0, "8k": 1.0}},
            "density": {"flashprefill": kept, "xattention": kept},
        },
        statements=[{"says": "so", **form}],
    )  # fmt: skip


def run(folder, *speedups, method="flashprefill", machine="a CPU", lengths=(4 * K, 8 * K), extra=(), **changed):
    """A run with these speed-ups over FlashAttention-2, of two rounds alike."""
    both = range(2)
    records = [dense(8.0, "fa2", seq_len=length, round=n, **changed) for length in lengths for n in both]
    for length, speedup in zip(lengths, speedups, strict=True):
        label = {"method": method.partition(":")[0], "label": method, "method_hash": method}
        records += [timed(8.0 / speedup, seq_len=length, round=n, **label, **changed) for n in both]
    return write(folder, [*records, *extra], cpu=machine)


def verdict(tmp_path, speedups, **form):
    (finding,) = judge(figure(**form), read_measured([run(tmp_path / "run", *speedups)]))
    return finding.verdict


CLOSE = {"close": {"quantity": "speedup_fa2", "method": "flashprefill"}}


@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ((2.1, 3.8), Judgement.REPRODUCED),
        ((2.6, 3.1), Judgement.REPRODUCED),
        ((2.1, 6.0), Judgement.EXCEEDED),
        ((1.4, 4.0), Judgement.NOT_REPRODUCED),
        ((1.4, 6.0), Judgement.NOT_REPRODUCED),
    ],
)
def test_values_count_within_the_tolerance_at_every_length(tmp_path, speedups, expected):
    assert verdict(tmp_path, speedups, **CLOSE) is expected


@pytest.mark.parametrize(("apart", "expected"), [(1.005, Judgement.UNDECIDED), (1.1, Judgement.NOT_REPRODUCED)])
def test_a_value_beyond_the_tolerance_by_less_than_its_noise_is_undecided(tmp_path, apart, expected):
    least, _ = tolerance("time ratio").limits(2.0)
    assert verdict(tmp_path, (least / apart, 4.0), **CLOSE) is expected


def test_a_value_that_is_no_gain_cannot_be_exceeded(tmp_path):
    one = figure(close={"quantity": "speedup_fa2", "method": "flashprefill"})
    less = one.model_copy(
        update={
            "published": {"density": {"flashprefill": {4 * K: 0.1}}},
            "statements": [one.statements[0].model_copy(update={"close": one.statements[0].form.model_copy(
                update={"quantity": "density"})})],
        }
    )  # fmt: skip
    (finding,) = judge(less, read_measured([run(tmp_path / "run", 2.0, 4.0)]))  # whose density is 0.5
    assert finding.verdict is Judgement.NOT_REPRODUCED


@pytest.mark.parametrize(
    ("speedups", "form", "holds"),
    [
        ((1.5, 3.0), {"grows": {"lens": "4k,8k"}}, True),
        ((1.5, 1.4), {"grows": {"lens": "4k,8k"}}, False),
        ((3.0, 1.5), {"falls": {"lens": "4k,8k"}}, True),
        ((1.5, 3.0), {"falls": {"lens": "4k,8k"}}, False),
        ((1.5, 3.0), {"bound": {"lens": "4k,8k", "above": 1}}, True),
        ((1.5, 0.9), {"bound": {"lens": "4k,8k", "above": 1}}, False),
        ((1.5, 0.9), {"bound": {"lens": "8k", "below": 1}}, True),
    ],
)
def test_claims_hold_at_every_length_or_not(tmp_path, speedups, form, holds):
    ((kind, given),) = form.items()
    full = {kind: {"quantity": "speedup_fa2", "method": "flashprefill"} | given}
    assert verdict(tmp_path, speedups, **full) is (Judgement.REPRODUCED if holds else Judgement.NOT_REPRODUCED)


def test_an_order_names_the_lengths_where_it_breaks(tmp_path):
    other = [timed(3.0, seq_len=n, method="xattention", label="xattention", method_hash="x") for n in (4 * K, 8 * K)]
    claim = figure(order={"quantity": "ms", "methods": ["flashprefill", "xattention"], "lens": "4k,8k"})
    measured = read_measured([run(tmp_path / "run", 2.0, 4.0, extra=other)])
    (finding,) = judge(claim, measured)
    assert finding.verdict is Judgement.NOT_REPRODUCED
    assert ours(claim, finding) == "4K 4.0 ms / 3.0 ms, 8K 2.0 ms / 3.0 ms; not at 4K"


def test_a_ratio_of_methods_is_of_both_sides(tmp_path):
    # Twice and four times the rival, as published, though both are twice as fast as published.
    rival = [timed(4.0, seq_len=n, method="xattention", label="xattention", method_hash="x") for n in (4 * K, 8 * K)]
    claim = figure(close={"quantity": "speedup_fa2", "method": "flashprefill", "over": "xattention"})
    (finding,) = judge(claim, read_measured([run(tmp_path / "run", 4.0, 8.0, extra=rival)]))
    assert finding.verdict is Judgement.REPRODUCED
    assert ours(claim, finding) == "4K 2x, 8K 4x"


def test_what_is_missing_is_said(tmp_path):
    absent = run(tmp_path / "absent", 2.0, lengths=(4 * K,))
    (finding,) = judge(figure(**CLOSE), read_measured([absent]))
    assert (finding.verdict, finding.reason) == (Judgement.REPRODUCED, "flashprefill at 8K: no record")
    assert ours(figure(**CLOSE), finding) == "4K 2.0x; not judged: flashprefill at 8K: no record"
    (finding,) = judge(figure(grows=CLOSE["close"] | {"lens": "4k,8k"}), read_measured([absent]))
    assert finding.verdict is Judgement.NOT_MEASURED  # of one length there is no trend
    broken = run(tmp_path / "broken", 2.0, lengths=(4 * K,), extra=[failed(seq_len=8 * K)])
    (finding,) = judge(figure(**CLOSE), read_measured([broken]))
    assert finding.reason == "flashprefill at 8K: oom: too large"
    dense_instead = run(tmp_path / "dense", 2.0, 4.0, fallback=True)
    (finding,) = judge(figure(**CLOSE), read_measured([dense_instead]))
    assert "fell back to dense" in finding.reason
    other = run(tmp_path / "other", 2.0, 4.0, input="random")
    (finding,) = judge(figure(**CLOSE), read_measured([other]))
    assert finding.reason == "no records with input structured"


def test_the_first_complete_run_decides_and_other_machines_are_beside_it(tmp_path):
    folders = [
        run(tmp_path / "partial", 9.0, lengths=(4 * K,), machine="one"),
        run(tmp_path / "first", 2.0, 4.0, machine="one"),
        run(tmp_path / "later", 9.0, 9.0, machine="one"),
        run(tmp_path / "elsewhere", 2.0, 1.0, machine="two"),
    ]
    (finding,) = judge(figure(**CLOSE), read_measured(folders))
    assert finding.verdict is Judgement.REPRODUCED
    assert finding.source.folder == folders[1]
    assert finding.elsewhere == {next(m for m in finding.elsewhere): Judgement.NOT_REPRODUCED}
    assert where(finding).endswith(": not reproduced")
    (finding,) = judge(figure(**CLOSE), read_measured(folders[::-1]))
    assert finding.verdict is Judgement.NOT_REPRODUCED


def test_agreeing_with_what_was_calibrated_counts_for_nothing(tmp_path):
    measured = read_measured([run(tmp_path / "run", 2.0, 4.0)])
    (plain,) = judge(figure(**CLOSE), measured)
    (calibrated,) = judge(figure(**CLOSE, calibrated=True), measured)
    assert plain.counts
    assert calibrated.verdict is Judgement.REPRODUCED
    assert not calibrated.counts


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds no records\.jsonl"):
        read_measured([tmp_path])


def test_a_claim_that_breaks_within_the_noise_is_not_failed(tmp_path):
    records = [
        timed(ms, round=n, seq_len=4 * K, select_ms=0.048 * ms) for n, ms in enumerate((1.0, 1.02, 1.05, 0.97, 1.0))
    ]
    for above, expected in (
        (0.048, Judgement.UNDECIDED),
        (0.05, Judgement.UNDECIDED),
        (0.06, Judgement.NOT_REPRODUCED),
    ):
        claim = figure(bound={"quantity": "select_share", "method": "flashprefill", "lens": "4k", "above": above})
        (finding,) = judge(claim, read_measured([write(tmp_path / str(above), records)]))
        assert finding.verdict is expected
    claim = figure(bound={"quantity": "select_share", "method": "flashprefill", "lens": "4k", "above": 0.05})
    (finding,) = judge(claim, read_measured([tmp_path / "0.05"]))
    assert ours(claim, finding).endswith("; within the noise at 4K")


def test_one_round_alone_is_not_taken_for_exact(tmp_path):
    """4.8 % of one round, as MInference's search at 256K on an H200, is no refutation of "at least 5 %"."""
    run = write(tmp_path / "run", [timed(1.0, seq_len=4 * K, select_ms=0.048)])
    for above, expected in ((0.05, Judgement.UNDECIDED), (0.06, Judgement.NOT_REPRODUCED)):
        claim = figure(bound={"quantity": "select_share", "method": "flashprefill", "lens": "4k", "above": above})
        (finding,) = judge(claim, read_measured([run]))
        assert finding.verdict is expected


def test_a_speed_up_is_judged_at_equal_density_or_not_at_all(tmp_path):
    sparser = run(tmp_path / "sparser", 20.0, 40.0, density=0.02)
    (finding,) = judge(figure(**CLOSE), read_measured([sparser]))
    assert finding.verdict is Judgement.NOT_COMPARABLE
    assert finding.reason == "flashprefill at 4K, 8K: it keeps 2.0%, in the paper 50.0%"
    unknown = figure(**CLOSE)
    unknown = unknown.model_copy(update={"published": {"speedup_fa2": unknown.published["speedup_fa2"]}})
    (finding,) = judge(unknown, read_measured([run(tmp_path / "unknown", 2.0, 4.0)]))
    assert (finding.verdict, "gives no density" in finding.reason) == (Judgement.NOT_COMPARABLE, True)


def test_a_method_on_other_inputs_is_not_comparable(tmp_path):
    claim = figure(**CLOSE).model_copy(update={"other_inputs": ["flashprefill"]})
    (finding,) = judge(claim, read_measured([run(tmp_path / "run", 1.0, 1.0)]))
    assert finding.verdict is Judgement.NOT_COMPARABLE
    assert finding.reason == "flashprefill at 4K, 8K: its inputs are not its paper's"
    assert finding.source is None
