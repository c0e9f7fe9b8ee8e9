"""A stand-in for vLLM's engine: the same model by transformers."""

import torch

from fp_bench.jobs.accuracy.answer import greedy
from fp_bench.models.attention import SparsePrefill
from fp_bench.models.load import load_model


class HfEngine:
    """The same model by transformers, where vLLM would be."""

    def __init__(self, model, *, device, dtype, longest, share=1.0, arguments=None):
        self.longest, self.share, self.arguments = longest, share, arguments
        self.model, _ = load_model(model, device=device, dtype=dtype)
        self.prefill = None

    def use(self, method, *, measure_selection=False):
        self.prefill = SparsePrefill(self.model, method, measure_selection=measure_selection)

    def counts(self):
        return self.prefill.counts

    def generate(self, ids, new, *, stop=None, least=0):
        with self.prefill:
            return greedy(self.model, torch.tensor([ids]), new, stop or (), least=least)

    def attention_milliseconds(self, run):
        run()
        return 1.0

    def close(self):
        self.model = None
