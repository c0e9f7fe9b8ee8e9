"""Records as a test wants them."""

from fp_bench.results.record import LatencyRecord

ASKED = {
    "code_version": "1+aaaa",
    "method": "flashprefill",
    "label": "flashprefill",
    "method_hash": "h",
    "seq_len": 4096,
    "q_len": 4096,
    "batch": 1,
    "q_heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "dtype": "bf16",
    "input": "structured",
}


def timed(ms=2.0, **changed):
    found = {"samples_ms": [ms], "median_ms": ms, "attend_ms": ms, "density": 0.5, "recall": 0.9, "backend": "triton"}
    return LatencyRecord(**ASKED | found | {"status": "ok", "timer": "cuda_event", "cache": "cold"} | changed)


def dense(ms=4.0, impl="cudnn", **changed):
    label = f"dense:impl={impl}"
    return timed(
        ms, **{"method": "dense", "label": label, "method_hash": label, "backend": impl, "density": 1.0} | changed
    )


def failed(status="oom", reason="too large", **changed):
    return LatencyRecord(**ASKED | {"status": status, "reason": reason} | changed)
