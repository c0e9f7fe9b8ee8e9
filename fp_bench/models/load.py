"""Hugging Face models by name, folder or GGUF file, and the embedded one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fp_bench.errors import UnavailableError, UsageError, first_line, first_of
from fp_bench.models import embedded
from fp_bench.models.loading.config_check import check_folder, check_numbers
from fp_bench.models.loading.gguf_file import check_gguf, gguf_identity
from fp_bench.models.spec import RANDOM, ModelSpec, positions

EMBEDDED = "embedded"
WEIGHTS, WEIGHTS_READ = (".safetensors", ".bin"), 65536
"""Endings of weight files, and the number of bytes in the middle of each that identify it."""


def model_config(name: str) -> Any:
    """Return the configuration of a model's text part, with the changes of the name.

    Raises:
        UsageError: a change that it does not allow.
        UnavailableError: it cannot be found, downloaded or read.
    """
    return _whole_config(name).get_text_config()


def _whole_config(name: str) -> Any:
    from transformers import AutoConfig

    spec = ModelSpec.parse(name)
    check_folder(Path(spec.source))
    with _or_unavailable(name):
        config = AutoConfig.from_pretrained(trust_remote_code=False, **_found(spec))
        text = config.get_text_config()
    spec.change(text)
    check_numbers(f"model {name!r}", lambda key: getattr(text, key, None))
    return config


def _found(spec: ModelSpec) -> dict[str, Any]:
    """Return where transformers finds a model.

    Raises:
        UsageError: a revision of files that have none.
        UnavailableError: a missing folder, or an unreadable GGUF file.
    """
    where = {key: value for key, value in spec.loading if key == "revision"}
    local = spec.source == EMBEDDED or spec.gguf is not None or Path(spec.source).is_dir()
    if local and where:
        raise UsageError(f"model {spec.source!r} has no revisions; only repositories of the hub have")
    if (file := spec.gguf) is None:
        if spec.names_a_folder and not local:
            raise UnavailableError(f"model folder {spec.source} does not exist")
        return where | {"pretrained_model_name_or_path": embedded.path() if spec.source == EMBEDDED else spec.source}
    check_gguf(file)
    return where | {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}


class ModelFacts(NamedTuple):
    """Facts of a model before its weights are loaded."""

    tokenizer: Any
    layers: int
    positions: int | None
    """Tokens it can read; None if its configuration does not say."""


def model_facts(name: str) -> ModelFacts:
    """Return a model's tokenizer and facts of its configuration.

    Raises:
        UsageError: a model with random weights.
        UnavailableError: it cannot be found, downloaded or read.
    """
    from transformers import AutoTokenizer

    if name.startswith(RANDOM):
        raise UsageError(f"model {name!r} has random weights and cannot answer; give a model with weights")
    config = model_config(name)
    with _or_unavailable(name):
        tokenizer = AutoTokenizer.from_pretrained(trust_remote_code=False, **_found(ModelSpec.parse(name)))
    return ModelFacts(tokenizer, config.num_hidden_layers, positions(config))


def load_model(
    name: str, *, device: torch.device, dtype: torch.dtype, attention: str = "sdpa", spread: bool = False
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer; code from a model's repository is never run.

    Args:
        name: ``embedded``, a folder, a repository of the Hugging Face hub, a GGUF file, or ``random:`` and one of
            these; changes to its configuration and arguments of loading after it, as `ModelSpec` takes them.
        device: device of the weights.
        dtype: of weights and activations.
        attention: a registered attention function of transformers; eager for a model
            without SDPA support.
        spread: distribute layers over all visible GPUs, for models larger than one; ``device_map=auto``.

    Returns:
        The model in evaluation mode, and its tokenizer; None with random weights.

    Raises:
        UsageError: a change to its configuration, or an argument of loading, that it does not take.
        UnavailableError: it cannot be found, downloaded or read, or its weights do not fit its configuration.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = _whole_config(name)
    attention = _taken_attention(config, attention)
    spec = ModelSpec.parse(name)
    given = ({"device_map": "auto"} if spread else {}) | dict(spec.loading)
    if spec.random:
        if alien := [key for key in given if key not in ("revision", "experts_implementation")]:
            raise UsageError(f"model {name!r}: {alien[0]} needs stored weights, but these are random")
        experts = {key: value for key, value in given.items() if key != "revision"}
        return _random_model(config, device, dtype, attention, **experts), None
    with _or_unavailable(name):
        tokenizer = AutoTokenizer.from_pretrained(trust_remote_code=False, **_found(spec))
        model, report = AutoModelForCausalLM.from_pretrained(
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, with their names
            **(given | _found(spec)),
        )
    if spec.gguf is not None:
        _forget_quantisation(model)
    if "device_map" not in given:
        model = model.to(device)
    # On a GPU this takes no time; many threads of a busy host would wait for each other.
    check_weights(name, model, report)
    return model.eval(), tokenizer


def model_without_weights(name: str) -> Any:
    """Return a model with shapes but without data, on torch's meta device, in bfloat16.

    Raises:
        UsageError: a change to its configuration that it does not take.
        UnavailableError: the configuration is missing, or transformers has no causal language model for it.
    """
    from transformers import AutoModelForCausalLM

    config = _whole_config(name)
    text = config.get_text_config()
    # Scaled rotary positions read the prompt's length; no shape depends on them.
    if isinstance(rope := getattr(text, "rope_parameters", None), dict) and "rope_type" in rope:
        text.rope_parameters = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        text.rope_parameters["rope_type"] = "default"
    with _or_unavailable(name), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=_taken_attention(config, "sdpa")
        )
    # Running experts one by one would read which tokens belong to them.
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")
    return model.eval()


def check_weights(name: str, model: Any, report: Mapping[str, Any]) -> None:
    """Refuse a checkpoint with missing, foreign or not finite weights.

    Args:
        name: of the model.
        model: the loaded model.
        report: transformers' loading info: weights initialised at random, unused, or of another shape.

    Raises:
        UnavailableError: with the names of the first weights.
    """
    # Old checkpoints and GGUF files include the frequencies of rotary positions, which follow from the configuration.
    frequencies = ("rotary_emb.inv_freq", "rope_freqs.weight")
    faults = {
        "lacks": report["missing_keys"],
        "does not use": {key for key in report["unexpected_keys"] if not key.endswith(frequencies)},
        "has another shape of": {key for key, *_ in report["mismatched_keys"]},
        "has values that are not finite in": {key for key, value in model.named_parameters() if not _is_finite(value)},
    }
    said = [f"{fault} {first_of(sorted(keys), 3)}" for fault, keys in faults.items() if keys]
    if said:
        raise UnavailableError(f"model {name!r} {', '.join(said)}: its weights do not fit its configuration")


def _is_finite(weight: torch.Tensor) -> bool:
    known = weight.dtype in (torch.float32, torch.bfloat16, torch.float16) and not weight.is_meta
    return not known or bool(weight.isfinite().all())


def _forget_quantisation(model: Any) -> None:
    """Remove the mark of a quantised model, which transformers leaves after dequantisation."""
    model.hf_quantizer, model.is_quantized = None, False
    for owner, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)


def _random_model(config: Any, device: torch.device, dtype: torch.dtype, attention: str, **experts: str) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention, **experts)
    return model.to(device).eval()


def _taken_attention(config: Any, attention: str) -> str:
    """Return eager if SDPA is requested and the model does not support it."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if attention != "sdpa" or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return attention
    return attention if MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa else "eager"


def model_source(name: str) -> str | Path:
    """Return the folder, repository or file of a name."""
    source = ModelSpec.parse(name).source
    return embedded.path() if source == EMBEDDED else source


@contextmanager
def _or_unavailable(name: str) -> Iterator[None]:
    try:
        yield
    except (UsageError, UnavailableError):
        raise
    except Exception as error:
        # Broken files raise any exception in their reader; a device without memory is a different failure.
        if isinstance(error, RuntimeError | MemoryError) and ModelSpec.parse(name).gguf is None:
            raise
        raise UnavailableError(f"model {name!r} cannot be loaded: {first_line(error)}") from None


def model_label(name: str, engine: str = "hf", arguments: Sequence[str] = ()) -> str:
    """Return the name in records: for a folder with a hash of its content, and with an engine other than hf.

    A folder of weights is ``NAME@`` eight digits, so that two checkpoints of one name differ; a GGUF file is
    ``FILE@QUANTISATION-`` eight digits of its sha256. Changes to the configuration follow, ``?rope=yarn:4``. Records
    of two engines, or of two ``arguments`` of one, never share a table, because they differ in more than attention.
    """
    if engine != "hf":
        return f"{model_label(name)}@{engine}" + (f"?{'&'.join(arguments)}" if arguments else "")
    spec = ModelSpec.parse(name)
    if (file := spec.gguf) is not None:
        label = f"{file.name}@{gguf_identity(file)}"
    elif (folder := Path(spec.source)).is_dir():
        label = folder.resolve().name + ("" if spec.random else f"@{_fingerprint(folder)}")
    else:
        label = spec.source
    return (RANDOM if spec.random else "") + label + spec.query


def _fingerprint(folder: Path) -> str:
    """Return eight digits of a folder's configuration, and of its weights' names, sizes and a part of each."""
    found = sha256()
    for path in sorted(folder.iterdir()):
        if path.name == "config.json":
            found.update(path.read_bytes())
        elif path.suffix in WEIGHTS:
            size = path.stat().st_size
            with path.open("rb") as file:
                file.seek(size // 2)
                found.update(f"{path.name} {size} ".encode() + file.read(WEIGHTS_READ))
    return found.hexdigest()[:8]
