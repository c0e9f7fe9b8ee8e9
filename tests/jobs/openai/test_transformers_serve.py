"""A real server: transformers' own, with the embedded model on the CPU."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import httpx
import pytest
from transformers.utils.import_utils import is_serve_available

from fp_bench.models import embedded
from fp_bench.records.store import read_records
from tests.cli.test_cli import fpbench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not is_serve_available(), reason="transformers serve is not here; pip install transformers[serving]"
    ),
]


@contextmanager
def transformers_serve(log):
    """Serve the embedded model in bfloat16, as `--engine hf` runs it; yield the URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from transformers.cli.transformers import main; main()"
    words = ["serve", str(embedded.path()), "--device", "cpu", "--dtype", "bfloat16", "--host", "127.0.0.1"]
    command = [sys.executable, "-c", start, *words, "--port", str(port)]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=dict(os.environ)) as server:
        try:
            while True:
                assert server.poll() is None, log.read_text()[-2000:]
                with suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{port}/health").is_success:
                        break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()


def test_a_served_model_answers_as_it_does_in_transformers(tmp_path):
    common = ("--suite", "ruler", "--lens", "4k", "--samples", "1", "--no-report")
    with transformers_serve(tmp_path / "log") as url:
        served = fpbench("accuracy", *common, "--engine", f"openai:{url}", "--out", tmp_path / "served")
        assert served.exit_code == 0, served.output
        words = ("--ttft", "--model", "embedded", "--lens", "256", "--rounds", "1", "-n", "4", "--concurrency", "1,2")
        timed = fpbench("latency", *words, "--engine", f"openai:{url}", "--out", tmp_path / "timed", "--no-report")
        assert timed.exit_code == 0, timed.output
        wrong = fpbench("accuracy", *common, "--engine", f"openai:{url}?model=other", "--out", tmp_path / "wrong")
        assert "Server is pinned to" in wrong.output
    here = fpbench("accuracy", *common, "--methods", "dense", "--out", tmp_path / "here")
    assert here.exit_code == 0, here.output
    theirs, ours = (read_records(tmp_path / name).records for name in ("served", "here"))
    assert len(ours) == 13
    answers = [
        {r.sample_id: (r.prediction, r.score, r.prompt_tokens, r.new_tokens) for r in of} for of in (theirs, ours)
    ]
    assert answers[0] == answers[1]
    assert [len(record.samples_ms) for record in read_records(tmp_path / "timed").records] == [4, 4]
