"""A figure or table of a paper as data: its values, its statements, and the commands that measure it."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from fp_bench.errors import UsageError, did_you_mean
from fp_bench.sizes import parse_length, parse_lengths

ByLength = Annotated[
    dict[int, float],
    BeforeValidator(lambda given: {parse_length(str(length)): value for length, value in given.items()}),
]
Lengths = Annotated[list[int], BeforeValidator(parse_lengths)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Close(_Data):
    """Ours lies within the tolerance of the published values at every published length."""

    quantity: str
    method: str
    over: str | None = None
    """Both are divided by this method's value at the same length."""
    lens: Lengths | None = None
    """None: every published length."""


class Bound(_Data):
    """A quantity of one method stays above or below a bound at every length."""

    quantity: str
    method: str
    lens: Lengths
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _has_one_end(self) -> "Bound":
        if (self.above is None) == (self.below is None):
            raise ValueError("give above or below")
        return self


class Order(_Data):
    """A quantity rises from each method to the next at every length."""

    quantity: str
    methods: list[str]
    lens: Lengths


class Grows(_Data):
    """A quantity of one method grows from each length to the next."""

    quantity: str
    method: str
    lens: Lengths


class Falls(Grows):
    """It falls from each length to the next."""


Form = Close | Bound | Order | Grows | Falls


class Statement(_Data):
    """One statement of a figure, in exactly one of the forms."""

    says: str
    close: Close | None = None
    bound: Bound | None = None
    order: Order | None = None
    grows: Grows | None = None
    falls: Falls | None = None
    calibrated: bool = False
    """Our inputs were calibrated to it, so agreement proves nothing."""

    @model_validator(mode="after")
    def _has_one_form(self) -> "Statement":
        if len(self._forms()) != 1:
            raise ValueError(f"{self.says!r}: give one of close, bound, order, grows, falls")
        return self

    def _forms(self) -> list[Form]:
        given: tuple[Form | None, ...] = (self.close, self.bound, self.order, self.grows, self.falls)
        return [form for form in given if form]

    @property
    def form(self) -> Form:
        """What is to be checked."""
        return self._forms()[0]


class PaperFigure(_Data):
    """One figure or table, from its YAML file."""

    name: str
    """Name of its file, for ``fpbench reproduce``."""
    title: str
    paper: str
    place: str
    """Place of the published values in the paper."""
    theirs: str
    """What the paper measured on."""
    differs: str = ""
    """Differences from the paper, besides the GPU."""
    commands: list[str] = []
    """``fpbench`` command lines, without ``fpbench``, that measure it."""
    setting: Mapping[str, Any]
    """Required fields of the records."""
    axis: str
    quantity: str
    """What is plotted."""
    against: Literal["length", "method"] = "length"
    drawn: list[str] = []
    """Methods drawn next to the published ones."""
    published: dict[str, dict[str, ByLength]] = {}
    """Quantity -> method -> length -> value."""
    statements: list[Statement] = []
    other_inputs: list[str] = []
    """Methods that adapt to the inputs; ours are not the paper's, so they cannot be compared."""
    unmeasured: str | None = None
    """Why nothing of it can be compared."""

    @model_validator(mode="after")
    def _is_complete(self) -> "PaperFigure":
        if bool(self.statements) == bool(self.unmeasured):
            raise ValueError("give statements, or why nothing can be compared (unmeasured)")
        for statement in self.statements:
            if statement.close:
                known = self.published.get(statement.close.quantity, {})
                for method in filter(None, (statement.close.method, statement.close.over)):
                    if method not in known:
                        raise ValueError(f"{statement.says!r}: no published {statement.close.quantity} of {method}")
        return self

    @property
    def methods(self) -> list[str]:
        """The methods that its plot shows."""
        return list(dict.fromkeys([*self.published.get(self.quantity, {}), *self.drawn]))


def load_figures() -> Sequence[PaperFigure]:
    """Return all figures, by paper and name."""
    return [_read(name, text) for name, text in sorted(_files())]


def load_figure(name: str) -> PaperFigure:
    """Return the figure of a name.

    Raises:
        UsageError: an unknown name.
    """
    found = {figure.name: figure for figure in load_figures()}
    if name not in found:
        raise UsageError(f"unknown figure {name!r}{did_you_mean(name, found)}")
    return found[name]


def _files() -> Iterator[tuple[str, str]]:
    for entry in files("fp_bench.reports.papers").joinpath("figures").iterdir():
        if entry.name.endswith(".yaml"):
            yield entry.name.removesuffix(".yaml"), entry.read_text()


def _read(name: str, text: str) -> PaperFigure:
    return PaperFigure(name=name, **yaml.safe_load(text))
