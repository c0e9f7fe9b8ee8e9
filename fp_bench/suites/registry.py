"""Suites by name, loaded lazily, like methods in `fp_bench.methods.registry`."""

from typing import TYPE_CHECKING

from fp_bench.methods.registry import Registry, Spec

if TYPE_CHECKING:
    from fp_bench.suites.suite import Suite

BUILTIN_SUITES = {
    "fidelity": "fp_bench.suites.fidelity:Fidelity",
    "helmet": "fp_bench.suites.helmet:Helmet",
    "infinitebench": "fp_bench.suites.infinitebench.suite:InfiniteBench",
    "longbench": "fp_bench.suites.longbench.suite:LongBench",
    "longbench@e": "fp_bench.suites.longbench.suite:LongBenchE",
    "longbench@v2": "fp_bench.suites.longbench.v2:LongBenchV2",
    "mrcr": "fp_bench.suites.mrcr:Mrcr",
    "mrcr@openai": "fp_bench.suites.mrcr:OpenAiMrcr",
    "needle": "fp_bench.suites.needle.suite:Needle",
    "needle@gkamradt": "fp_bench.suites.needle.suite:Gkamradt",
    "needle@minference": "fp_bench.suites.needle.suite:MInferenceNeedle",
    "probe": "fp_bench.suites.probe.suite:Probe",
    "ruler": "fp_bench.suites.ruler.hermetic.suite:Ruler",
    "ruler@files": "fp_bench.suites.ruler.files:RulerFiles",
    "ruler@nvidia": "fp_bench.suites.ruler.nvidia.suite:NvidiaRuler",
}

suites = Registry("suite", "fp_bench.suites", BUILTIN_SUITES)


def create_suite(spec: Spec) -> "Suite":
    """Load and build the suite that ``spec`` names.

    Raises:
        UsageError: unknown name or parameter, or a value out of limits.
        UnavailableError: its package is missing or broken here.
    """
    suite: Suite = suites.load(spec.name).from_options(spec.options)
    return suite
