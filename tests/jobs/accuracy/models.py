"""Tiny random models on disk, as a user's model folder would be."""

import random
import string

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3MoeConfig

from fp_bench.suites.ruler.templates import COMMON_WORDS, FREQUENT_WORDS, NIAH, NOISE, QA, VARIABLE_TRACKING

RULER_WORDING = (NOISE + NIAH.task + VARIABLE_TRACKING.task + COMMON_WORDS.task + FREQUENT_WORDS.task + QA.task) * 3
TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def tokenizer(chat):
    """A byte-level BPE of its own, with or without a chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special, alphabet = ["<s>", "</s>", "<pad>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    draw = random.Random(0)
    words = ("".join(draw.choices(string.ascii_lowercase, k=6)) for _ in range(500))
    bpe.train_from_iterator([RULER_WORDING, " ".join(words)], trainer)
    found = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if chat:
        found.chat_template = TEMPLATE
    return found


def save_model(folder, *, experts=False, chat=False, positions=8192):
    """Write a random model and its tokenizer; return the folder. Every third token ends an answer, to save time."""
    words = tokenizer(chat)
    sizes = SIZES | {"vocab_size": len(words), "max_position_embeddings": positions}
    config = Qwen3MoeConfig(**sizes, **EXPERTS) if experts else Qwen3Config(**sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = [1, *range(3, len(words), 3)]
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
