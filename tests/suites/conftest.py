import pytest

from fp_bench.suites.cache import VARIABLE
from tests.suites.tokenizers import Bytes, Embedded, Words


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test reads or writes the user's cache; return the folder that is used instead."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


TOKENIZERS = {"words": Words, "bytes": Bytes, "embedded": Embedded}


@pytest.fixture(scope="session", params=TOKENIZERS)
def tokenizer(request):
    """Each of three tokenizers in turn."""
    return TOKENIZERS[request.param]()
