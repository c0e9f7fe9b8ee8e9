"""Names of methods and suites, loaded lazily: built-in ones and third-party entry points, with did-you-mean.

Importing this module imports no method and no torch.
"""

import importlib
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from fp_bench.errors import UnavailableError, UsageError, did_you_mean

if TYPE_CHECKING:
    from fp_bench.methods.base import Method

BUILTIN_METHODS = {
    "cosa": "fp_bench.methods.cosa:Cosa",
    "delta": "fp_bench.methods.modifiers.delta:Delta",
    "dense": "fp_bench.methods.dense:Dense",
    "flashprefill": "fp_bench.methods.flashprefill:FlashPrefill",
    "flashprefill_v2": "fp_bench.methods.flashprefill_v2:FlashPrefillV2",
    "flexprefill": "fp_bench.methods.flexprefill:FlexPrefill",
    "minference": "fp_bench.methods.minference:MInference",
    "minference_official": "fp_bench.methods.minference.official:MInferenceOfficial",
    "prism": "fp_bench.methods.prism:Prism",
    "rbs": "fp_bench.methods.rbs:RBS",
    "skip_softmax": "fp_bench.methods.modifiers.skip_softmax:SkipSoftmax",
    "spargeattn": "fp_bench.methods.spargeattn:SpargeAttn",
    "stem": "fp_bench.methods.stem:Stem",
    "streaming": "fp_bench.methods.streaming:Streaming",
    "trianglemix": "fp_bench.methods.trianglemix:TriangleMix",
    "xattention": "fp_bench.methods.xattention:XAttention",
}


@dataclass(frozen=True)
class Spec:
    """A name with its options; nothing is loaded yet."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Parse ``name:key=value:key=value``; double quotes protect commas and colons in a value.

        Raises:
            UsageError: an option without ``=`` or key, an option given twice, or an unclosed quote.
        """
        name, *parts = split_unquoted(text.strip(), ":")
        options: dict[str, str] = {}
        for part in parts:
            key, equals, value = part.partition("=")
            if not (key and equals and value):
                raise UsageError(f"{text!r}: option {part!r} is not key=value, e.g. flashprefill:alpha=0.18")
            if key in options:
                raise UsageError(f"{text!r}: option {key!r} is given twice; give it once")
            options[key] = _unquoted(value)
        return cls(name, options)

    @classmethod
    def parse_all(cls, text: str) -> list["Spec"]:
        """Parse ``a,b:key=value``."""
        return [cls.parse(part) for part in split_unquoted(text, ",")]

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{key}={_quoted(str(value))}" for key, value in self.options.items())])


def split_unquoted(text: str, separator: str) -> list[str]:
    """Split a text at separators outside double quotes.

    Raises:
        UsageError: an unclosed quote.
    """
    parts, quoted = [""], False
    for letter in text:
        quoted ^= letter == '"'
        if letter == separator and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    if quoted:
        raise UsageError(f'{text!r}: a quote is left open; close it with "')
    return parts


def _unquoted(value: str) -> str:
    """Remove the quotes around a value; two quotes inside mean one."""
    return value[1:-1].replace('""', '"') if len(value) > 1 and value[0] == value[-1] == '"' else value


def _quoted(value: str) -> str:
    """Quote a value if `Spec.parse` would split it otherwise."""
    plain = value and value == value.strip() and not set(value) & set('",:')
    return value if plain else '"' + value.replace('"', '""') + '"'


class Registry:
    """Lazily loaded names: ``package.module:Name`` targets and the entry points of one group."""

    def __init__(self, noun: str, group: str, builtin: Mapping[str, str]) -> None:
        self.noun = noun
        self.group = group
        self._builtin = dict(builtin)

    def targets(self) -> dict[str, str]:
        """Return every name with its import target; a built-in name wins over a plug-in's."""
        return self._plugins() | self._builtin

    def _plugins(self) -> dict[str, str]:
        return {point.name: point.value for point in entry_points(group=self.group)}

    def warn_of_hidden(self) -> None:
        """Warn of the plug-ins that a built-in name hides."""
        plugins = self._plugins()
        for name in sorted(plugins.keys() & self._builtin):
            warnings.warn(f"plug-in {plugins[name]} is ignored: fp_bench has a {self.noun} {name!r}", stacklevel=2)

    def check(self, name: str) -> None:
        """Raise UsageError with a near name when ``name`` is unknown."""
        targets = self.targets()
        if name not in targets:
            raise UsageError(f"unknown {self.noun} {name!r}{did_you_mean(name, targets)}")

    def owners(self, name: str) -> list[str]:
        """Return the packages that provide a name; only ours if it is built in."""
        if name in self._builtin:
            return ["fp_bench"]
        points = entry_points(group=self.group, name=name)
        return sorted({f"{point.dist.name if point.dist else '?'} ({point.value})" for point in points})

    def load(self, name: str) -> Any:
        """Import and return the object called ``name``.

        Raises:
            UsageError: unknown name.
            UnavailableError: a plug-in or an optional package does not import, or two share the name.
        """
        self.check(name)
        if len(owners := self.owners(name)) > 1:
            raise UnavailableError(f"{self.noun} {name!r} comes from several packages, {', '.join(owners)}; keep one")
        module, _, attribute = self.targets()[name].partition(":")
        try:
            with redirect_stdout(sys.stderr):  # of what a plug-in prints: stdout is for results
                return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # a plug-in may raise anything while importing
            reason = f"{self.noun} {name!r} cannot be loaded: {type(error).__name__}: {error}"
            if name not in self._builtin:
                warnings.warn(reason, stacklevel=2)
            raise UnavailableError(reason) from error


methods = Registry("method", "fp_bench.methods", BUILTIN_METHODS)


def create_method(spec: Spec, backend: str = "auto") -> "Method":
    """Load and build the method that ``spec`` names.

    Raises:
        UsageError: unknown name, parameter or preset, or a value out of limits.
        UnavailableError: its package is missing or broken here, or its class has another method's name.
    """
    method: Method = methods.load(spec.name).from_options(spec.options, backend=backend)
    taken = next((name for name in (str(method.name), Spec.parse(method.label).name) if name != spec.name), None)
    if taken is not None:
        # Its records would look like those of another method.
        owner, other = (", ".join(methods.owners(name)) or "no package" for name in (spec.name, taken))
        raise UnavailableError(
            f"method {spec.name!r} is of {owner}, which calls itself {taken!r}, a name of {other}; let the class "
            f"have the name {spec.name!r}"
        )
    return method
