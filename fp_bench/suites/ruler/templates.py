"""The wording of RULER's prompts, and how to fill its fields.

The strings are those of NVIDIA/RULER, commit c3f5e3b4, byte for byte, typing errors included, because scores depend on
each byte. Copyright (c) 2024, NVIDIA CORPORATION, Apache-2.0: http://www.apache.org/licenses/LICENSE-2.0
"""

from dataclasses import dataclass

from fp_bench.suites.fit import Prompt

NEEDLE = "One of the special magic {type_needle_v} for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DOCUMENT = "Document {i}:\n{document}"


@dataclass(frozen=True)
class Template:
    """The text around a context, with ``{fields}``."""

    task: str
    """Text with ``{context}``; the question follows it."""
    answer_prefix: str

    def fill(self, context: str, /, *, before: str = "", **fields: object) -> Prompt:
        """Put a context and fields into the template.

        Args:
            context: inserted unchanged; its braces are text.
            before: text before the task, e.g. a solved example.
            fields: the other fields.
        """
        opening, question = self.task.split("{context}")
        return Prompt(
            before + opening.format(**fields) + context,
            question.format(**fields),
            self.answer_prefix.format(**fields),
        )

    def singular(self) -> "Template":
        """Return the wording for one value: NVIDIA's replacements, in their order."""
        return Template(_singular(self.task), _singular(self.answer_prefix))


def _singular(text: str) -> str:
    for plural, singular in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
        text = text.replace(plural, singular)
    return text


NIAH = Template(
    "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. I will quiz "
    "you about the {type_needle_v} afterwards.\n{context}\nWhat are all the special magic {type_needle_v} for {query} "
    "mentioned in the provided text?",
    " The special magic {type_needle_v} for {query} mentioned in the provided text are",
)
VARIABLE_TRACKING = Template(
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: Find "
    "all variables that are assigned the value {query} in the text above.",
    " Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables are assigned the "
    "value {query}, they are: ",
)
COMMON_WORDS = Template(
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list?",
    " Answer: The top 10 words that appear most often in the list are:",
)
FREQUENT_WORDS = Template(
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
    "three most frequently appeared words in the above coded text?",
    " Answer: According to the coded text above, the three most frequently appeared words are:",
)
QA = Template(
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "The following are given documents.\n\n{context}\n\nAnswer the question based on the given documents. Only give me "
    "the answer and do not output any other words.\n\nQuestion: {query}",
    " Answer:",
)
