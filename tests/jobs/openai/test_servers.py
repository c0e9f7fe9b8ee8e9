import pytest

from fp_bench.errors import UsageError
from fp_bench.jobs.openai.servers import SERVED, Load, Server, engine_name, servers
from fp_bench.jobs.request import AccuracyRequest, LatencyRequest, read_command
from fp_bench.methods.registry import Spec

URL = "http://127.0.0.1:8000/v1"


def test_servers_are_labelled_as_methods_are():
    first, second = servers(f"dense=openai:{URL}/,flashprefill:alpha=0.18=openai:https://far:1/v1?model=other")
    assert first == Server(Spec("dense"), URL)
    assert second == Server(Spec("flashprefill", {"alpha": "0.18"}), "https://far:1/v1", "other")
    assert [*servers(f"{first},{second}")] == [first, second]
    assert servers(f"openai:{URL}") == (Server(SERVED, URL),)
    assert str(Server(SERVED, URL)) == f"openai:{URL}"
    assert servers("hf") == servers("vllm") == servers("vlm") == ()
    assert [engine_name(name) for name in ("hf", "vllm", f"a=openai:{URL}")] == ["hf", "vllm", "openai"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"engine": "openai:127.0.0.1:8000/v1"}, "'127.0.0.1:8000/v1' is no URL of a server; write openai:http://"),
        ({"engine": "openai:ftp://a/v1"}, "is no URL of a server"),
        ({"engine": "openai:http://a:b/v1"}, "is no URL of a server"),
        ({"engine": "openai:http://[/v1"}, "is no URL of a server"),
        ({"engine": "openai:"}, "'' is no URL of a server"),
        ({"engine": "openai:http://me:secret@a/v1"}, "the URL holds credentials, .* set OPENAI_API_KEY"),
        ({"engine": f"openai:{URL}?key=1"}, "only .model=NAME comes after the path"),
        ({"engine": f"openai:{URL},openai:{URL}"}, "two servers are called 'served'; name each"),
        ({"engine": f"openai:{URL},hf"}, "'hf' is no server"),
        ({"engine": f"openai:{URL}", "methods": "dense"}, "--methods: a server decides that itself; label"),
        ({"engine": f"openai:{URL}", "dtype": "fp16", "backend": "torch"}, "--dtype, --backend|--backend, --dtype"),
    ],
)
def test_what_cannot_be_asked_of_a_server_is_one_line(given, words):
    for kind in (AccuracyRequest, LatencyRequest):
        with pytest.raises(UsageError, match=words) as error:
            kind.parse(given | ({"ttft": True} if kind is LatencyRequest else {}))
        assert "\n" not in str(error.value)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"concurrency": "4"}, "--concurrency: only a server can be put under load; give --engine openai:URL"),
        ({"ttft": True, "rate": "1"}, "--rate: only a server can be put under load"),
        ({"concurrency": "0,4"}, "--concurrency '0,4': write numbers above 0 and up to 10000"),
        ({"concurrency": "1.5"}, "--concurrency '1.5': write numbers"),
        ({"rate": "nan"}, "--rate 'nan': write numbers"),
        ({"rate": "1,inf"}, "--rate '1,inf': write numbers"),
        ({"ttft": True, "engine": f"openai:{URL}", "rate": "1", "concurrency": "2"}, "two kinds of load; give one"),
        ({"engine": f"openai:{URL}"}, "runs models; give --ttft too"),
    ],
)
def test_a_load_is_checked(given, words):
    with pytest.raises(UsageError, match=words):
        LatencyRequest.parse(given)


def test_loads_are_of_either_kind_and_come_back_from_a_command():
    asked = LatencyRequest.parse({"ttft": True, "engine": f"openai:{URL}", "rate": "2,0.5"})
    assert asked.loads == [Load(rate=0.5), Load(rate=2.0)]
    assert read_command(asked.command) == asked
    assert LatencyRequest.parse({"ttft": True, "engine": f"openai:{URL}"}).loads == [Load(1)]
