"""The trainer on a CPU: it learns, repeats itself, resumes exactly, and writes what transformers reads."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training import checkpoint
from training.curriculum import CURRICULUM, Curriculum, Stage
from training.exam import Exam, marks, table
from training.export import export
from training.model import ModelShape, Retriever
from training.tokenizer import vocabulary
from training.trainer import Trainer

SMALL = ModelShape(6912, hidden=32, layers=2, heads=2, kv_heads=1, head_size=16, inner=32)
TINY = Curriculum([Stage("a", 8, {256: 1}, 1.0), Stage("b", 12, {256: 0.5, 512: 0.5}, 0.0)], tokens=512, pool=500)


def trainer(folder=None, curriculum=TINY, seed=0):
    torch.manual_seed(seed)
    return Trainer(Retriever(SMALL), curriculum, folder, "words", say=lambda _: None)


def weights(trained):
    return {name: weight.detach().clone() for name, weight in trained.model.named().items()}


@pytest.mark.slow
def test_a_resumed_training_equals_an_undisturbed_one_bitwise(tmp_path):
    whole = trainer()
    whole.run(12)
    first = trainer(tmp_path)
    first.run(5)
    second = trainer(tmp_path, seed=1)
    second.resume(tmp_path)
    assert second.step == 5
    second.run(12)
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(second)[name]), name
    for name, momentum in whole.optimizer.momenta.items():
        assert torch.equal(momentum, second.optimizer.momenta[name]), name


@pytest.mark.slow
def test_equal_seeds_give_equal_losses_whoever_writes_the_texts():
    runs = [trainer(), trainer(), trainer(curriculum=replace(TINY, seed=1))]
    runs[1].workers = 2
    losses = [[line.loss for line in run.run(3)] for run in runs]
    assert losses[0] == losses[1] != losses[2]


def test_a_checkpoint_of_another_seed_or_in_part_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD", 600_000)
    run = trainer(tmp_path)
    run.save()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    assert all(file.stat().st_size < 900_000 for file in files)  # the embedding alone is larger than a file may be
    with pytest.raises(ValueError, match="seed"):
        trainer(curriculum=replace(TINY, seed=1)).resume(tmp_path)
    files[0].unlink()
    with pytest.raises(ValueError, match="the checkpoint has no"):
        trainer().resume(tmp_path)


@pytest.mark.slow
def test_the_loss_falls():
    run = trainer(curriculum=replace(TINY, stages=[Stage("a", 60, {256: 1}, 1.0)]))
    run.warm_up = 5
    first = run.run(1)[0].loss
    assert run.run(60)[-1].loss < first - 1


def test_the_exported_model_is_the_trained_one(tmp_path):
    run = trainer()
    run.run(2)
    with torch.no_grad():
        for weight in run.model.named().values():
            weight.copy_(weight.bfloat16())
    export(run.model, vocabulary(), tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(tmp_path)
    text = "One of the special magic numbers for gentle-harbor is: 1234567. VAR ABCDE = 12345\n #1a2b-3c4d bafodu"
    ids = words(text, return_tensors="pt").input_ids
    assert ids[0].tolist() == [1, *vocabulary().encode(text)]
    assert words.decode(ids[0], skip_special_tokens=True) == text
    with torch.no_grad():
        ours = run.model.logits(run.model(ids))
        assert torch.allclose(loaded(ids).logits[0], ours, atol=2e-5)
    assert loaded.generation_config.eos_token_id == words.eos_token_id == 2
    again = trainer(seed=1)
    again.begin_with(tmp_path, step=7)
    assert torch.equal(again.model.logits(again.model(ids)), run.model.logits(run.model(ids)))
    assert again.step == 7
    assert again.run(9)[-1].step == 9


def test_the_real_model_fits_where_it_has_to():
    run = Trainer(Retriever(ModelShape(-(-len(vocabulary()) // 128) * 128)), Curriculum(), say=lambda _: None)
    sizes = [sum(t.nbytes for t in file.values()) for file in checkpoint.shards(run._tensors())]
    assert len(sizes) <= 6, "eight files come back, and there are others"
    assert max(sizes) <= 15 * 2**20
    assert sum(sizes) < 63 * 2**20
    weights = sum(weight.numel() * 2 for weight in run.model.parameters())
    assert weights < 25e6


def test_stages_follow_each_other():
    curriculum = Curriculum()
    assert curriculum.begin("256") == 0
    assert curriculum.begin("512") == CURRICULUM[0].steps
    assert curriculum.rate(0) == 1
    assert curriculum.rate(curriculum.begin("4k")) == pytest.approx(1.0)
    assert curriculum.rate(curriculum.begin("16k")) == pytest.approx(CURRICULUM[3].rate)
    assert 0 < curriculum.rate(curriculum.steps - 1) < 0.01
    assert all(curriculum.length(step) == 256 for step in range(50))


def test_an_exam_is_marked():
    found = marks(trainer().model, Exam({1024: 1}, ["probe"]), workers=0)
    assert len(found) == 9
    assert all(0 <= mark.whole <= mark.tokens <= 1 for mark in found.values())
    assert "probe/multivalue" in table(found)
