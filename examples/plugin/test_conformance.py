"""What fpbench asks of any method and suite; run it with pytest where the package is installed."""

from fp_bench_example.ledger import Ledger
from fp_bench_example.sink_and_window import SinkAndWindow

from fp_bench.testing import check_method, check_suite


def test_the_method_conforms():
    check_method(SinkAndWindow, everything={"window_blocks": 1000})


def test_the_suite_conforms():
    check_suite(Ledger)
