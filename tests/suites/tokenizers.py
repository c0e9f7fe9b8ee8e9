"""Three tokenizers that cut text in very different ways, for what must hold with any."""

import re
import zlib

from fp_bench.models import embedded


class Words:
    """Words and signs; the one that NVIDIA's golden vectors were counted with."""

    fingerprint = "words"

    def encode(self, text):
        return [zlib.crc32(word.encode()) for word in re.findall(r"\w+|[^\w\s]", text)]

    def decode(self, ids):
        raise NotImplementedError


class Bytes:
    """One token a byte."""

    fingerprint = "bytes"

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


class Embedded:
    """The embedded model's, which spells out most words."""

    fingerprint = "embedded"

    def __init__(self):
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(embedded.path(), model_max_length=10**9)

    def encode(self, text):
        return self._tokenizer(text, add_special_tokens=False).input_ids

    def decode(self, ids):
        return self._tokenizer.decode(ids)
