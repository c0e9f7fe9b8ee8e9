"""Records as a test wants them."""

from fp_bench.records.record import AccuracyRecord, LatencyRecord
from fp_bench.records.store import RecordStore

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


def scored(score=1.0, **changed):
    asked = {name: ASKED[name] for name in ("code_version", "method", "label", "method_hash", "seq_len", "dtype")}
    suite = {"model": "embedded", "suite": "probe", "variant": "", "suite_version": 1, "task": "fact"}
    found = {"score": score, "prediction": f"says {score}", "density": 0.5, "recall": 0.9, "status": "ok"}
    return AccuracyRecord(**asked | suite | {"sample_id": "fact/0"} | found | changed)


def answers(scores, **changed):
    """A record for each score, of as many samples."""
    return [scored(score, sample_id=f"{changed.get('task', 'fact')}/{i}", **changed) for i, score in enumerate(scores)]


def rounds(times, **changed):
    """A record for each time, round by round."""
    return [timed(ms, round=number, **changed) for number, ms in enumerate(times)]


def write(folder, records, **environment):
    """Write a run folder whose environment has these facts, and return it."""
    with RecordStore(folder) as store:
        env = store.add_environment({"cpu": "a CPU"} | environment)
        for record in records:
            store.append(record.model_copy(update={"env": env}))
    return folder
