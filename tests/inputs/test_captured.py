"""Reading a capture: what was saved comes back, and anything else is one clear line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import scaled_dot_product_attention

from fp_bench.errors import UsageError
from fp_bench.inputs.captured import MANIFEST, Captured, CaptureManifest, file_hash, file_name
from fp_bench.inputs.open import open_inputs
from fp_bench.inputs.source import InputSource, Shape

CPU = torch.device("cpu")
ASKED = Shape(1, 256, 32, 8, 128)


def save(folder: Path, seed: int = 0, layers: tuple[int, ...] = (3,)) -> dict[str, torch.Tensor]:
    """Write a capture of length 256, with 4 query heads on 2 KV heads; return the last layer's tensors."""
    draw = torch.Generator().manual_seed(seed)
    sizes = {"q": 4, "k": 2, "v": 2}
    files = {}
    for layer in layers:
        tensors = {name: torch.randn(1, 256, heads, 64, generator=draw) for name, heads in sizes.items()}
        path = folder / file_name(256, layer)
        save_file(tensors, path)
        files[path.name] = file_hash(path)
    manifest = CaptureManifest(
        model="tiny",
        text="sha256:0",
        lengths=[256],
        layers=list(layers),
        model_layers=5,
        batch=1,
        q_heads=4,
        kv_heads=2,
        head_dim=64,
        dtype="float32",
        files=files,
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return tensors


def read(folder: Path, layer: int = 3, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    return Captured(folder).tensors(ASKED, layer=layer, seed=0, dtype=dtype, device=CPU)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved = save(tmp_path)
    source = Captured(tmp_path)
    assert source.layers() == [3]
    assert source.shapes(ASKED) == Shape(1, 256, 4, 2, 64)
    assert source.given_index(ASKED, seed=0, device=CPU) is None
    for name, tensor in zip("qkv", read(tmp_path), strict=True):
        assert torch.equal(tensor, saved[name])
    assert read(tmp_path, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_heads_of_a_stack_of_layers_stand_side_by_side(tmp_path: Path) -> None:
    save(tmp_path, layers=(0, 2, 3, 5, 9))
    plain, stacked = open_inputs(f"captured:{tmp_path}"), open_inputs(f"captured:{tmp_path}:stack=2")
    assert stacked.name == f"{plain.name}:stack=2"
    assert stacked.layers() == [0, 3]  # layer 9 is left over
    shape = stacked.shapes(ASKED)
    assert shape == Shape(1, 256, 8, 4, 64)

    def outputs(source: InputSource, layer: int) -> torch.Tensor:
        qkv = source.tensors(ASKED, layer=layer, seed=0, dtype=torch.float32, device=CPU)
        q, k, v = (tensor.transpose(1, 2) for tensor in qkv)
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    apart = torch.cat([outputs(plain, layer) for layer in (3, 5)], dim=1)
    torch.testing.assert_close(outputs(stacked, 3), apart)


@pytest.mark.parametrize(
    ("stack", "message"), [("6", "stack 6 is not in 1..5"), ("0", "stack 0"), ("two", "write e.g."), ("", "write e.g.")]
)
def test_a_stack_that_cannot_be_is_one_line(tmp_path: Path, stack: str, message: str) -> None:
    save(tmp_path, layers=(0, 2, 3, 5, 9))
    with pytest.raises(UsageError, match=message):
        open_inputs(f"captured:{tmp_path}:stack={stack}")


def test_name_tells_captures_apart(tmp_path: Path) -> None:
    one, other, copy = tmp_path / "a" / "tiny", tmp_path / "b" / "tiny", tmp_path / "c" / "tiny"
    for folder, seed in ((one, 0), (other, 1), (copy, 0)):
        folder.mkdir(parents=True)
        save(folder, seed)
    assert Captured(one).name.startswith("captured:tiny@")
    assert Captured(one).name == Captured(copy).name
    assert Captured(one).name != Captured(other).name


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Shape(1, 512, 4, 2, 64), "length 512 is not in capture .* it has 256"),
        (Shape(2, 256, 4, 2, 64), "batch 2 is not in capture .* it has 1"),
    ],
)
def test_other_shapes_are_refused(tmp_path: Path, asked: Shape, message: str) -> None:
    save(tmp_path)
    with pytest.raises(UsageError, match=message):
        Captured(tmp_path).shapes(asked)


def test_other_layers_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(UsageError, match=r"layer 0 is not in capture .* it has 3"):
        read(tmp_path, layer=0)


def test_missing_file(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / file_name(256, 3)).unlink()
    with pytest.raises(UsageError, match="lacks len256_layer3"):
        read(tmp_path)


def test_truncated_file(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / file_name(256, 3)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UsageError, match="differs from the capture's manifest"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"\x80\x04pickle", b""])
def test_file_that_is_no_safetensors(tmp_path: Path, content: bytes) -> None:
    save(tmp_path)
    path = tmp_path / file_name(256, 3)
    path.write_bytes(content)
    vouch_for(path)
    with pytest.raises(UsageError, match=r"len256_layer3\.safetensors cannot be read"):
        read(tmp_path)


def test_tensors_of_another_shape(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / file_name(256, 3)
    save_file({name: torch.zeros(1, 256, 4, 64) for name in "qkv"}, path)
    vouch_for(path)
    with pytest.raises(UsageError, match=r"k in len256_layer3.safetensors is \[1, 256, 4, 64\]"):
        read(tmp_path)


def test_tensor_that_is_not_there(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / file_name(256, 3)
    save_file({"q": torch.zeros(1, 256, 4, 64)}, path)
    vouch_for(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path)


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a finished capture: it has no capture\.json"):
        Captured(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schema_version": 2}, "schema_version"), ({"q_heads": "many"}, "q_heads"), ({"pickle": 1}, "pickle")],
)
def test_manifest_of_another_make(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save(tmp_path)
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=f"cannot be used: {message}"):
        Captured(tmp_path)


def test_manifest_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(UsageError, match="cannot be used"):
        Captured(tmp_path)


def vouch_for(path: Path) -> None:
    """Put a file's hash into the manifest beside it."""
    manifest = path.parent / MANIFEST
    content = json.loads(manifest.read_text())
    content["files"][path.name] = file_hash(path)
    manifest.write_text(json.dumps(content))
