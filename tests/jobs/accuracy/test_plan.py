from fp_bench.jobs.accuracy.plan import make_plan
from fp_bench.jobs.request import AccuracyRequest
from tests.jobs.accuracy.models import save_model, tokenizer


def items(folder, **more):
    asked = {"suite": "probe", "lens": "512", "samples": 1, "methods": "dense", "model": str(folder)}
    return make_plan(AccuracyRequest.parse(asked | more)).items


def test_another_template_or_tokenizer_is_another_cell(tmp_path):
    folder = save_model(tmp_path / "model", chat=True)
    keys = {item.key for item in items(folder)}
    raw = {item.key for item in items(folder, chat="off")}
    assert not keys & raw
    words = tokenizer(chat=True)
    words.chat_template += "{# again #}"
    words.save_pretrained(folder)
    assert not keys & {item.key for item in items(folder)}
    assert raw == {item.key for item in items(folder, chat="off")}
    words.add_tokens(["another"])
    words.save_pretrained(folder)
    assert not raw & {item.key for item in items(folder, chat="off")}


def test_the_embedded_model_s_cells_are_what_they_were():
    assert not any(item.asked.get("tokenizer") for item in items("embedded"))
