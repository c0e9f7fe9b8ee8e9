"""Essays, questions and words of the form that NVIDIA's generators read, small and made up.

The vectors of ``golden_made_up.json`` are what the unmodified generators (NVIDIA/RULER c3f5e3b4) write from these files
with the tokenizer `Words`, NLTK's splitter replaced by `simple_sentences`, numpy 2.4.6 and Python 3.11.
"""

import json
import random

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "river",
    "stone",
    "cloud",
    "machine",
    "idea",
    "people",
    "good",
    "write",
    "think",
    "work",
    "small",
    "large",
]


def write(folder):
    """Write the four files and return the options of ``ruler@nvidia`` that name them."""
    draw = random.Random(7)

    def sentence():
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 15))).capitalize() + draw.choice(".!?.")

    def text(fewest, most):
        return " ".join(sentence() for _ in range(draw.randint(fewest, most)))

    def paragraph(article, number):
        asked = [
            {
                "question": f"Which {article} {number} {i}?",
                "is_impossible": draw.random() < 0.3,
                "answers": [{"text": draw.choice(WORDS)} for _ in range(3)],
            }
            for i in range(2)
        ]
        return {"context": f"{article} {number} {text(3, 8)}", "qas": asked}

    data = {
        "essays": {"text": "\n\n".join(text(2, 9) for _ in range(120))},
        "squad": {
            "data": [
                {"title": f"t{a}", "paragraphs": [paragraph(a, i) for i in range(draw.randint(1, 9))]}
                for a in range(12)
            ]
        },
        "hotpotqa": [
            {
                "question": f"How {i}?",
                "answer": draw.choice(WORDS),
                "context": [[f"T{i}-{j}", [sentence() + " " for _ in range(draw.randint(1, 5))]] for j in range(10)],
            }
            for i in range(30)
        ],
        "english_words": {str(i): f"w{i}x" for i in range(30000)},
    }
    options = {"sentences": "simple"}
    for name, content in data.items():
        options[name] = str(folder / f"{name}.json")
        (folder / f"{name}.json").write_text(json.dumps(content))
    return options
