"""Methods that would like a better row than theirs."""
# ruff: noqa: ARG002

import threading
import time
from dataclasses import dataclass, replace

import torch

from fp_bench.kernels.attention.reference import attention, sample_rows
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.pooling.means import BlockMeans
from fp_bench.methods.base import Method
from fp_bench.methods.dense import Dense


class Best(Method):
    """Honest: each query block reads its own key block, and the one whose mean key it likes best."""

    name = "best"

    def select(self, call):
        grid = BlockGrid(call.q_len, call.kv_len)
        means = torch.stack([block.mean(1) for block in call.k.float().split(128, 1)], 1)
        means = means.repeat_interleave(call.q_heads // call.kv_heads, 2)
        queries = torch.stack([block.mean(1) for block in call.q.float().split(128, 1)], 1)
        scores = torch.einsum("bihd,bjhd->bhij", queries, means)
        own = torch.arange(grid.rows)[:, None] == torch.arange(grid.key_blocks)
        past = torch.arange(grid.rows)[:, None] > torch.arange(grid.key_blocks)
        scores = scores.masked_fill(~past, -torch.inf)
        best = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, scores.argmax(-1, keepdim=True), True)
        return BlockIndex.from_mask(best | own, call.q_len, call.kv_len)

    def attend(self, call, index):
        return attention(call.q, call.k, call.v, scale=call.scale, index=index).out.to(call.q.dtype)


class Previous(Best):
    """Returns the output of the call before."""

    def run(self, call):
        out, index = super().run(call)
        before, self.before = getattr(self, "before", out), out
        return before, index


class Remembers(Best):
    """Computes once and answers from memory."""

    name = "remembers"
    memory = None

    def run(self, call):
        if self.memory is None:
            self.memory = super().run(call)
        return self.memory


class RemembersByPlace(Best):
    """Computes once for tensors of some content, as far as it cares to look."""

    def __init__(self, params=None, *, backend="auto"):
        super().__init__(params, backend=backend)
        self.memory = {}

    def run(self, call):
        key = call.k.data_ptr(), float(call.k[0, 0, 0, 0].round()), float(call.q[0, 0, 0, 0].round())
        if key not in self.memory:
            self.memory[key] = super().run(call)
        return self.memory[key]


class RemembersLayers(Best):
    """Computes each layer of a model once."""

    def __init__(self, params=None, *, backend="auto"):
        super().__init__(params, backend=backend)
        self.memory = {}

    def run(self, call):
        if call.layer not in self.memory:
            self.memory[call.layer] = super().run(call)
        return self.memory[call.layer]


class OnlyAttendsOnce(Best):
    """Its attention alone, which is timed too, comes from memory."""

    def run(self, call):
        index = self.select(call)
        return super().attend(call, index), index

    def attend(self, call, index):
        if not hasattr(self, "memory"):
            self.memory = super().attend(call, index)
        return self.memory


class WritesInputs(Best):
    def select(self, call):
        call.k[:, ::2] *= 1.001
        return super().select(call)


class ZeroesV(Best):
    """Output and definition would agree on nothing."""

    name = "zeroes_v"

    def run(self, call):
        call.v.zero_()
        return torch.zeros_like(call.q), self.select(call)


class SwapsTokens(Best):
    """Its inputs have the same numbers after it, at other places."""

    def attend(self, call, index):
        out = super().attend(call, index)
        call.k[:, :64] = call.k[:, :64].flip(1)
        return out


class Tolerant(Best):
    """Half of the output, within what it declares."""

    def tolerance(self):
        return 1.0

    def attend(self, call, index):
        return 0.5 * super().attend(call, index)


class StopsTheClock(Best):
    """An honest 20 ms, were the clock to go on."""

    def run(self, call):
        time.sleep(0.02)
        return super().run(call)


class HandsOn(Best):
    """Half of the rows are left to a thread that nobody waits for."""

    def attend(self, call, index):
        whole = super().attend(call, index)
        out = torch.zeros_like(whole)
        half = call.q_len // 2
        out[:, :half] = whole[:, :half]

        def rest():
            time.sleep(0.05)
            out[:, half:] = whole[:, half:]

        threading.Thread(target=rest).start()
        return out


class Boastful(BlockIndex):
    def density(self):
        return super().density() / 10

    def entries(self):
        return super().entries() // 10


class ClaimsDensity(Best):
    def select(self, call):
        return Boastful(**vars(super().select(call)))


class ClaimsDensityOfOurType(Best):
    def select(self, call):
        index = super().select(call)
        density = index.density() / 10
        object.__setattr__(index, "density", lambda: density)
        return index


@dataclass
class OwnType:
    """A selection that says one density and reads another."""

    index: BlockIndex

    def __post_init__(self):
        self.q_len, self.kv_len = self.index.q_len, self.index.kv_len
        self.lists, self.index = self.index, None

    def density(self):
        return self.lists.density() / 10

    def entries(self):
        return self.lists.entries() // 10

    def keys_read(self, batch, head, position):
        return self.lists.keys_read(batch, head, position)

    def kept_blocks(self, head):
        return self.lists.kept_blocks(head) / 10


class ClaimsDensityOfOwnType(Best):
    def select(self, call):
        return OwnType(super().select(call))


class CachesByShape(Best):
    """Selects once for each shape."""

    memory: dict = {}  # noqa: RUF012

    def select(self, call):
        key = id(self), call.q.shape, call.k.data_ptr()
        if key not in self.memory:
            self.memory[key] = super().select(call)
        return self.memory[key]


class SelectsNowAndThen(Best):
    """Selects at every eighth call."""

    calls = 0

    def select(self, call):
        self.calls += 1
        if self.calls < 4 or self.calls % 8 == 0:
            self.memory = super().select(call)
        return self.memory


class UnsupportedComputes(Best):
    """Selects where nobody looks at the clock."""

    def unsupported(self, call):
        self.memory = super().select(call)

    def select(self, call):
        return self.memory


class ImplementationComputes(UnsupportedComputes):
    def implementation(self, call, index):
        self.memory = Best.select(self, call)
        return "none"


class Overwrites(Best):
    """Returns a view of memory that its next call writes to."""

    def attend(self, call, index):
        out = super().attend(call, index)
        if not hasattr(self, "memory"):
            self.memory = torch.empty_like(out)
        return self.memory.copy_(out)


class GuessesRows(Best):
    """Computes the rows that the seed 0 draws; all of them at first."""

    calls = 0

    def attend(self, call, index):
        self.calls += 1
        out = super().attend(call, index)
        if self.calls < 3:
            return out
        guessed = torch.zeros_like(out)
        rows = sample_rows(call.q_len, 0)
        guessed[:, rows] = out[:, rows]
        return guessed


class Coarse(Best):
    """Half the bits of its tensors' type."""

    def attend(self, call, index):
        call = replace(call, q=call.q.bfloat16(), k=call.k.bfloat16(), v=call.v.bfloat16())
        return super().attend(call, index).float()


class Later(torch.Tensor):
    """A tensor that is filled when it is first read."""

    @classmethod
    def __torch_function__(cls, function, types, given=(), options=None):
        with torch._C.DisableTorchFunctionSubclass():
            for each in given:
                if isinstance(each, cls):
                    each.copy_(each.work())
            return function(*given, **(options or {}))


class ComputesWhenRead(Best):
    """Returns at once and computes when somebody looks, after the clock has stopped."""

    def attend(self, call, index):
        out = torch.empty_like(call.q).as_subclass(Later)
        out.work = lambda: Best.attend(self, call, index)
        return out


class ShortensLists(Best):
    """Its attention alone shortens the lists that it is given."""

    def run(self, call):
        index = self.select(call)
        return super().attend(call, index), index

    def attend(self, call, index):
        index.counts.clamp_max_(1)
        return super().attend(call, index)


class SelectsLessWhenTimed(Best):
    calls = 0

    def run(self, call):
        self.calls += 1
        index = self.select(call)
        if self.calls > 2:
            index.blocks[..., 0] = index.grid.diagonals(index.blocks.device)
            index.counts.fill_(1)
        return self.attend(call, index), index


class MakesUpMeans(Best):
    """Declares whatever means make its output right."""

    def means(self, call):
        blocks = -(-call.kv_len // 128)
        k = torch.full((call.batch, blocks, call.kv_heads, call.head_dim), 0.0)
        return BlockMeans(k, k)

    def attend(self, call, index):
        return attention(call.q, call.k, call.v, scale=call.scale, index=index, means=self.means(call)).out


class DefinesItself(Best):
    """Calls half of the output right."""

    def definition(self, call, index, rows):
        return self.attend(call, index)[:, rows]

    def attend(self, call, index):
        return 0.5 * super().attend(call, index)


class NanSomewhere(Best):
    """Not a number, in a row that the seed does not draw."""

    def attend(self, call, index):
        out = super().attend(call, index)
        unseen = sorted(set(range(call.q_len)) - set(sample_rows(call.q_len, 0).tolist()))
        out[:, unseen[len(unseen) // 2]] = torch.nan
        return out


class SwapsV(Best):
    """Puts other values into the call that it is given."""

    def run(self, call):
        object.__setattr__(call, "v", torch.zeros_like(call.v))
        return super().run(call)


class DenseInDisguise(Best):
    """As good as dense attention, and as sparse as it likes to say."""

    name = "disguised"

    def attend(self, call, index):
        return super().attend(call, None)


class Heir(Dense):
    """Inherits the name of dense, and would be its row."""


class Labelled(Best):
    name = "labelled"

    @property
    def label(self):
        return "dense"
