"""How the embedded model is trained: tokenizer, texts, model, optimiser, loop. Never imported by a benchmark.

Why the model is as it is, by arithmetic; docs/training.md has the recipe and what came of it.

- **Width 384, six query heads of 128, two of keys.** The prototype of width 256 had not learnt to tell 64 needles apart
  after 120 M tokens, that of 384 had. Head size 128 is what kernels for large models are built for.
- **Six layers with a small perceptron** (384) where the prototype had five with one of 576, at the same cost: words are
  now several tokens, so that one more step is needed to put them together before they can be compared or counted.
- **6,912 tokens.** Words of the suites are one token, all else is spelled in pairs of letters: a coined word takes
  two or three tokens, a UUID 21, and the common-words list fits 4K as RULER writes it (30 and 3 times).
- **10.0 M parameters**: 20 MB in bfloat16, in two files for the wheel. A checkpoint has float32 weights and what the
  optimiser remembers in bfloat16, 65.4 MB in files of at most 15 MiB: what one call to a borrowed machine may return.
- **131,072 tokens a step** at every length, so that one compiled graph serves all of them. At 128K attention takes some
  95 times the operations of everything else, so few steps are that long.
"""
