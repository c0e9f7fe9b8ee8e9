"""Options from a YAML file, by their names."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import yaml

from fp_bench.errors import UsageError, did_you_mean

LONGEST = 4096
"""Letters of one value."""
LARGEST = 2**20
"""Bytes of a file."""
NULL = "tag:yaml.org,2002:null"


def read_config(path: Path, options: Mapping[str, str], several: Collection[str] = ()) -> dict[str, str | list[str]]:
    """Return each parameter's value in a file as text, which the command line then reads.

    Lists become comma lists. YAML's own types are not used, because ``4:30`` would be 270 and ``on`` true.

    Args:
        path: of the YAML file, a mapping of option names (without ``--``) to values.
        options: option names -> parameter names.
        several: parameters that may be given several times; each keeps its list.

    Raises:
        UsageError: an unreadable file, one that is not such a mapping, an unknown or repeated option, or a
            value of another kind.
    """
    values: dict[str, str | list[str]] = {}
    given: set[str] = set()
    for key, node in _load(path):
        name = key.replace("_", "-")
        what = f"--config {path}: {name}"
        if name not in options:
            raise UsageError(f"--config {path}: unknown option {key!r}{did_you_mean(name, options)}")
        if name in given:
            raise UsageError(f"{what} is given twice; give it once")
        given.add(name)
        if not _is_null(node):
            texts = _as_given(node, what)
            values[options[name]] = texts if options[name] in several else ",".join(texts)
    return values


def _load(path: Path) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the keys and values of a file."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise UsageError(f"--config {path} has more than {LARGEST} bytes; write lines such as lens: 4k,256k")
        found = yaml.compose(data.decode(), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"--config {path} cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UsageError(f"--config {path}{where} is not YAML: {getattr(error, 'problem', error)}") from None
    except RecursionError:
        raise UsageError(f"--config {path} is nested too deeply; write lines such as lens: 4k,256k") from None
    if not isinstance(found, yaml.MappingNode):
        raise UsageError(f"--config {path} has no options; write lines such as lens: 4k,256k")
    for key, value in found.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"--config {path} line {key.start_mark.line + 1}: an option's name must be a word")
        yield key.value, value


def _as_given(node: yaml.Node, what: str) -> list[str]:
    """Return the parts of a value as written on the command line."""
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for part in parts:
        if not isinstance(part, yaml.ScalarNode) or _is_null(part):
            raise UsageError(f"{what} is neither a word, a number nor a list of them")
    texts = [str(part.value) for part in parts]
    if (length := len(",".join(texts))) > LONGEST:
        raise UsageError(f"{what} is {length} characters long; the limit is {LONGEST}")
    return texts


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == NULL
