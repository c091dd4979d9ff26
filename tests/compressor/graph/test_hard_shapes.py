from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compressor.errors import GraphError
from compressor.graph import ChannelGraph, trace

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Check = Callable[..., ChannelGraph]


def conv(inputs: int, outputs: int, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **settings)


def free(graph: ChannelGraph) -> dict[str, int]:
    return {group.name: group.size for group in graph.groups if group.frozen is None}


def reason(graph: ChannelGraph, name: str) -> str:
    return graph.group(name).frozen or ""


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)))


class ConcatOfConcat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 6), conv(6, 4), conv(10, 8), Head(18)

    def forward(self, x):
        a = self.a(x).relu()
        inner = torch.cat([a, self.b(a)], 1)
        return self.head(torch.cat([inner, self.c(inner).relu()], 1))


class ConcatThenSplit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.head = conv(3, 6), conv(3, 6), conv(6, 4), conv(6, 4), Head(4)

    def forward(self, x):
        first, second = torch.cat([self.a(x), self.b(x)], 1).chunk(2, 1)
        return self.head(self.c(first) * self.d(second).sigmoid())


class SplitHalvesApart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(4, 6), conv(4, 5), Head(11)

    def forward(self, x):
        first, second = self.a(x).split(self.a.out_channels // 2, dim=1)
        return self.head(torch.cat([self.b(first.relu()), self.c(second)], 1))


class LiteralSplit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(4, 6), conv(4, 6), Head(6)

    def forward(self, x):
        first, second = self.a(x).split([4, 4], dim=1)
        return self.head(self.b(first) + self.c(second))


class Shuffle(nn.Module):
    """Pairs written as `shape` arithmetic, the usual channel shuffle; `module` takes torch's own."""

    def __init__(self, *, module: bool) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 8), Head(8)
        self.shuffle = nn.ChannelShuffle(3) if module else None

    def forward(self, x):
        x = self.a(x)
        if self.shuffle is not None:
            return self.head(self.b(self.shuffle(x)))
        n, c, h, w = x.shape
        return self.head(self.b(x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)))


class FixedLastFactor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 8), Head(8)

    def forward(self, x):
        x = self.a(x)
        n, c, h, w = x.shape
        return self.head(self.b(x.view(n, c // 4, 4, h, w).flip(2).reshape(n, c, h, w)))


class OptionA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 8), conv(8, 16, stride=2), conv(16, 16), Head(16)

    def forward(self, x):
        x = self.stem(x).relu()
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head((self.b(self.a(x).relu()) + short).relu())


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.down, self.up = conv(3, 12), nn.BatchNorm2d(12), nn.Linear(12, 4), nn.Linear(4, 12)
        self.head = Head(12)

    def forward(self, x):
        x = self.bn(self.a(x))
        n, c = x.shape[:2]
        gate = self.up(self.down(F.adaptive_avg_pool2d(x, 1).view(n, c)).relu()).sigmoid()
        return self.head(x * gate.view(n, c, 1, 1).expand_as(x))


class GroupedAndDepthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.grouped = conv(3, 12), conv(12, 24, groups=4)
        self.depthwise, self.head = conv(24, 48, groups=24), Head(48)

    def forward(self, x):
        return self.head(self.depthwise(self.grouped(self.a(x)).relu()))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.up = conv(3, 8), nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.grouped = nn.ConvTranspose2d(6, 8, 2, stride=2, groups=2)
        self.depthwise, self.head = nn.ConvTranspose2d(8, 16, 3, groups=8), Head(16)

    def forward(self, x):
        return self.head(self.depthwise(self.grouped(self.up(self.a(x)).relu())))


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.group, self.b = conv(3, 12), nn.GroupNorm(4, 12), conv(12, 8)
        self.instance, self.bare, self.c = nn.InstanceNorm2d(8, affine=True), nn.InstanceNorm2d(8), conv(8, 6)
        self.plain, self.d, self.layer = nn.BatchNorm2d(6, affine=False), conv(6, 10), nn.LayerNorm(10)
        self.e, self.one, self.prelu, self.f, self.head = (
            conv(10, 4),
            nn.GroupNorm(1, 4),
            nn.PReLU(8),
            conv(4, 8),
            Head(8),
        )

    def forward(self, x):
        x = self.b(self.group(self.a(x)).relu())
        x = self.c(self.bare(self.instance(x)).relu())
        x = self.d(self.plain(x).relu())
        x = self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.prelu(self.f(self.one(self.e(x)))))


class FlattenToLinear(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a, self.fc, self.out = how, conv(3, 6), nn.Linear(6 * 64, 7), nn.Linear(7, 5)

    def forward(self, x):
        x = self.a(x)
        x = {
            "flatten": lambda: x.flatten(1),
            "view": lambda: x.view(x.shape[0], -1),
            "literal": lambda: x.view(-1, 384),
        }[self.how]()
        return self.out(self.fc(x).relu())


class SeveralInputsAndOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 6), conv(3, 6), conv(6, 8), conv(8, 4)

    def forward(self, left, right):
        x = self.c(self.a(left) + self.b(right))
        return {"out": self.d(x.relu()), "both": (x.mean(), x.amax((2, 3)).sum(1))}


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same, self.norm, self.head = conv(3, 8), conv(8, 8), nn.BatchNorm2d(8), Head(8)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.same(self.norm(self.same(x))).relu())


class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 8), conv(8, 8), conv(8, 8), Head(8)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(self.b(self.a(self.stem(x)).relu()))


class MadeInForward(nn.Module):
    def __init__(self, *, literal: bool) -> None:
        super().__init__()
        self.literal, self.a, self.b, self.head = literal, conv(3, 8), conv(10, 6), Head(6)

    def forward(self, x):
        x = self.a(x)
        x = x + (torch.ones(8, 1, 1, dtype=x.dtype) if self.literal else torch.ones(x.shape[1], 1, 1, dtype=x.dtype))
        place = torch.linspace(0, 1, x.shape[3], dtype=x.dtype).expand(x.shape[0], 2, x.shape[2], -1)
        return self.head(self.b(torch.cat([x, place], 1)))


class OutsideModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.position = nn.Parameter(torch.rand(8, 1, 1)), nn.Parameter(torch.rand(1, 8, 8, 8))
        self.kernel, self.mix = nn.Parameter(torch.rand(6, 8, 3, 3)), nn.Parameter(torch.rand(1, 1, 6, 6))
        self.temperature, self.a, self.head = nn.Parameter(torch.rand(1)), conv(3, 8), Head(6)
        self.register_buffer("offset", torch.rand(8))

    def forward(self, x):
        x = self.a(x) * self.scale + self.position - self.offset[None, :, None, None]
        return self.head(F.conv2d(x * self.temperature, self.kernel) * self.mix)


class Slices(nn.Module):
    """`half` follows the width, `literal` is a number: the channels before it must stay."""

    def __init__(self, *, literal: bool) -> None:
        super().__init__()
        self.literal, self.a, self.b, self.c, self.head = literal, conv(3, 12), conv(6, 5), conv(6, 5), Head(5)

    def forward(self, x):
        x = self.a(x)
        half = 6 if self.literal else x.shape[1] // 2
        return self.head(self.b(x[:, :half]) + self.c(x[:, half:]))


class EveryOther(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 12), conv(6, 5), conv(6, 5), Head(5)

    def forward(self, x):
        x = self.a(x)
        return self.head(self.b(x[:, ::2]) + self.c(x[:, 1::2]))


class PixelShuffles(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 24), conv(6, 5), conv(20, 8), Head(8)

    def forward(self, x):
        x = self.b(F.pixel_shuffle(self.a(x), 2).relu())
        return self.head(self.c(F.pixel_unshuffle(x, 2)))


class SpatialAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.map, self.head = conv(3, 10), nn.Conv2d(2, 1, 3, padding=1), Head(10)

    def forward(self, x):
        x = self.a(x)
        stats = torch.stack([x.mean(1), x.amax(1)], 1)
        return self.head(x * self.map(stats).sigmoid())


class UnknownMiddle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 6), conv(6, 7), Head(7)

    def forward(self, x):
        x = self.a(x)
        q = x.flatten(2)
        x = (torch.softmax(q @ q.transpose(1, 2), -1) @ q).view(x.shape)
        return self.head(self.c(self.b(x).relu()))


class TiledAndRolled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 6), conv(12, 8), conv(8, 4), Head(4)

    def forward(self, x):
        x = self.b(self.a(x).repeat(1, 2, 1, 1))
        return self.head(self.c(x.roll(1, dims=1)))


CASES = {
    "concat of concat": (ConcatOfConcat(), {"a": 6, "b": 4, "c": 8}),
    "concat then split": (ConcatThenSplit(), {"a": 6, "c": 4}),
    "split halves used apart": (SplitHalvesApart(), {"a": 4, "b": 6, "c": 5}),
    "literal split": (LiteralSplit(), {"b": 6}),
    "channel shuffle in code": (Shuffle(module=False), {"a": 4, "b": 8}),
    "channel shuffle module": (Shuffle(module=True), {"a": 4, "b": 8}),
    "view with the last factor fixed": (FixedLastFactor(), {"a": 3, "b": 8}),
    "option-A shortcut": (OptionA(), {"stem": 8, "a": 16}),
    "squeeze-excite": (SqueezeExcite(), {"a": 12, "down": 4}),
    "grouped and depthwise": (GroupedAndDepthwise(), {"a": 3, "grouped": 6}),
    "transposed": (Transposed(), {"a": 8, "up": 3, "grouped": 4}),
    "norms": (Norms(), {"a": 4, "b": 8, "c": 6, "f": 8}),
    "flatten": (FlattenToLinear("flatten"), {"a": 6, "fc": 7}),
    "flatten by view": (FlattenToLinear("view"), {"a": 6, "fc": 7}),
    "flatten to a number": (FlattenToLinear("literal"), {"fc": 7}),
    "module used twice": (UsedTwice(), {"stem": 8}),
    "tied weights": (TiedWeights(), {"stem": 8}),
    "tensor made by shape": (MadeInForward(literal=False), {"a": 8, "b": 6}),
    "tensor made by number": (MadeInForward(literal=True), {"b": 6}),
    "parameters outside modules": (OutsideModules(), {"a": 8, "kernel": 6}),
    "slices by shape": (Slices(literal=False), {"a": 6, "b": 5}),
    "slices by number": (Slices(literal=True), {"a#2": 6, "b": 5}),
    "every other channel": (EveryOther(), {"a": 6, "b": 5}),
    "pixel shuffle": (PixelShuffles(), {"a": 6, "b": 5, "c": 8}),
    "spatial attention": (SpatialAttention(), {}),
    "attention in the middle": (UnknownMiddle(), {"b": 6, "c": 7}),
    "tiled, rolled": (TiledAndRolled(), {"a": 6, "c": 4}),
}


@pytest.mark.parametrize("name", CASES)
def test_silenced_equals_shrunk(name: str, check_cut: Check) -> None:
    model, expected = CASES[name]
    graph = check_cut(model, IMAGE)
    assert free(graph) == expected


def test_several_inputs_and_outputs(check_cut: Check) -> None:
    model = SeveralInputsAndOutputs()
    for example in [(IMAGE, IMAGE + 1), {"right": IMAGE, "left": IMAGE + 1}]:
        graph = check_cut(model, example)
        assert free(graph) == {"a": 6}
        assert "runs over these channels" in reason(graph, "c")
        assert reason(graph, "d") == "network output"


def test_reasons_name_the_line() -> None:
    graph = trace(UnknownMiddle(), IMAGE)
    assert reason(graph, "a").startswith("unknown operator matmul (test_hard_shapes.py:")
    assert {g.frozen for g in graph.groups if g.name == "head.fc"} == {"network output"}


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 4)

    def forward(self, x):
        if self.a(x).sum() > 0:
            return x
        return -x


def test_failure_names_the_line_and_leaves_the_network() -> None:
    model = Undecided().train()
    with pytest.raises(GraphError, match=r"Undecided cannot be traced at test_hard_shapes.py:\d+ `if self.a\(x\).sum"):
        trace(model, IMAGE)
    assert model.training
    assert model.a.training


class SomeImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 4)

    def forward(self, x):
        y = self.a(x)
        return y[(y.sum(dim=(1, 2, 3)) > 0)]


def test_a_shape_that_depends_on_values_is_refused_by_its_line() -> None:
    with pytest.raises(GraphError, match=r"SomeImages cannot .* \(test_hard_shapes.py:\d+\) depends on"):
        trace(SomeImages(), IMAGE)


class AuxiliaryHead(nn.Module):
    def __init__(self, *, literal: bool = False) -> None:
        super().__init__()
        self.literal = literal
        self.a, self.b, self.head, self.extra = conv(3, 8), conv(8, 6), Head(6), Head(8)

    def forward(self, x):
        x = self.a(x).relu()
        out = self.head(self.b(x))
        if not self.training:
            return out
        return out, self.extra(x.view(-1, 8, *x.shape[2:]) if self.literal else x)


def test_layers_only_training_reaches_are_cut_too(check_cut: Check) -> None:
    graph = check_cut(AuxiliaryHead(), IMAGE)
    assert free(graph) == {"a": 8, "b": 6}
    assert "extra.fc" in graph.group("a").layers
    assert graph.unreached == ()
    assert free(check_cut(AuxiliaryHead(literal=True), IMAGE)) == {"b": 6}


class ComputesWithCounts(nn.Module):
    """Numbers and assertions about channel counts, which no id can show."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a, self.b, self.head = how, conv(3, 8), conv(8, 6), Head(6)

    def forward(self, x):
        x = self.a(x)
        if self.how == "scale":
            x = x / x.shape[1] ** 0.5
        if self.how == "ramp":
            x = x * torch.linspace(0, 1, x.shape[1], dtype=x.dtype)[:, None, None]
        if self.how == "assert":
            assert x.shape[1] == 8
        return self.head(self.b(x))


@pytest.mark.parametrize("how", ["scale", "ramp", "assert"])
def test_code_that_computes_with_channel_counts_is_frozen(how: str, check_cut: Check) -> None:
    graph = check_cut(ComputesWithCounts(how), IMAGE)
    assert reason(graph, "a")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.attention = conv(3, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.a(x).flatten(2).transpose(1, 2)
        x, _ = self.attention(x, x, x, need_weights=False)
        return self.down(self.up(x).relu().mean(1))


def test_modules_that_check_their_own_sizes(check_cut: Check) -> None:
    graph = check_cut(Attention(), IMAGE)
    assert "takes no other size" in reason(graph, "a")


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.a, self.mix, self.head = nn.Embedding(9, 4), conv(3, 8), nn.Linear(4, 8), Head(8)

    def forward(self, batch):
        x = self.a(batch["image"])
        x = x.masked_fill(batch["mask"][:, None], 0.0) + self.mix(self.words(batch["word"]))[:, :, None, None]
        x = x.clone()
        x[:, : x.shape[1] // 2] += 1.0
        return {"out": [self.head(x)]}


def test_nested_inputs_of_several_types(check_cut: Check) -> None:
    batch = {"image": IMAGE, "mask": IMAGE[:, 0] > 0, "word": torch.tensor([1, 7])}
    assert free(check_cut(Masked(), (batch,))) == {"a": 4}
