"""Table of a model's layers and whether each method would run them sparse."""

from collections.abc import Iterator, Sequence

from fp_bench.errors import UnavailableError
from fp_bench.methods.base import Method
from fp_bench.methods.registry import Spec, create_method, methods
from fp_bench.models.layers import Layer, layers_of
from fp_bench.reports.table import Table
from fp_bench.sizes import format_ranges


def layer_tables(model: str, specs: Sequence[Spec] | None) -> list[Table]:
    """Return how many layers would run sparse with each method, and for each layer the reason if not.

    Args:
        model: as `fp_bench.models.load.load_model` takes it.
        specs: of methods; None: all available ones.

    Raises:
        UsageError: an unknown method or parameter, or a model whose attention cannot be replaced.
        UnavailableError: a named method, or the model's configuration, is missing.
    """
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()  # of packages that would make a real run faster
    chosen = [create_method(spec) for spec in specs] if specs else [*_all_methods()]
    layers = layers_of(model, chosen)
    counts = [
        [method.label, f"{sum(method.label not in layer.dense for layer in layers)} of {len(layers)}"]
        for method in chosen
    ]
    rows = [row for together in _alike(layers) for row in _rows(together, [method.label for method in chosen])]
    headings = ["layers", "kind", "heads", "prefill", "methods", "why dense"]
    return [
        Table(f"Model {model}: every layer", headings, rows, numbers=6),
        Table("Layers that would run sparse", ["method", "layers"], counts, numbers=1),
    ]


def _all_methods() -> Iterator[Method]:
    for name in methods.targets():
        if name != "dense":
            try:
                yield create_method(Spec(name))
            except UnavailableError:
                continue  # fpbench methods says why


def _alike(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Return groups of layers that are equal except for their number."""
    found: dict[tuple[object, ...], list[Layer]] = {}
    for layer in layers:
        found.setdefault((layer.kind, layer.shape, *layer.dense.items()), []).append(layer)
    return list(found.values())


def _rows(layers: Sequence[Layer], labels: Sequence[str]) -> Iterator[list[str]]:
    """Yield a row for the methods that would run these layers sparse, and one for each reason against it."""
    first = layers[0]
    where = [format_ranges([layer.number for layer in layers]), first.kind.replace("_", " "), first.shape]
    sparse = [label for label in labels if label not in first.dense]
    if sparse:
        yield [*where, "sparse", _some(sparse, labels), ""]
    for reason in dict.fromkeys(first.dense.values()):
        yield [*where, "dense", _some([label for label in labels if first.dense.get(label) == reason], labels), reason]


def _some(chosen: Sequence[str], labels: Sequence[str]) -> str:
    return f"all {len(labels)}" if len(labels) > 1 and len(chosen) == len(labels) else ", ".join(chosen)
