"""One forward pass tells which weights reach the output, and through which layer last; declarations tell nothing."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from oneticket.errors import InputError
from oneticket.models import MODELS, ModelSpec, blank, build
from oneticket.prunable import Prunable, find_head
from oneticket.wiring import unwrapped, watch

VECTORS, IMAGES = torch.randn(5, 16), torch.randn(5, 1, 6, 6)
WORDS = torch.randint(6, (5, 3), generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A network whose layers are declared in the order of the keywords, whatever ``forward`` does with them."""

    def __init__(self, compute: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def bodied(compute: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> Net:
    """``compute`` on the 8 features of a body that is declared last."""
    return Net(lambda m, x: compute(m, m.body(x).relu()), **parts, body=nn.Linear(16, 8))


def attended(m: Net, x: Tensor) -> Tensor:
    x = m.into(x.view(len(x), 4, 4))
    return m.head(m.attention(x, x, x)[0].mean(1))


def attended_last(m: Net, x: Tensor) -> Tensor:
    x = m.into(x)[:, None]
    return m.attention(x, x, x, need_weights=False)[0][:, 0]


def squeezed(m: Net, x: Tensor) -> Tensor:
    x = m.conv(x).relu()
    return m.out(x * m.squeeze(x.mean((2, 3))).sigmoid()[:, :, None, None]).mean((2, 3))


def encoded(m: Net, x: Tensor) -> Tensor:
    x = torch.cat([m.token.expand(len(x), -1, -1), m.into(x.view(len(x), 4, 4))], 1) + m.place
    return m.head(m.encoder(x)[:, 0])


def preallocated(m: Net, x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 4)
    out[:, :2], out[:, 2:] = m.one(x), m.two(x)
    return out


def sharing(bias: bool) -> nn.Sequential:
    layers = nn.Linear(16, 16), nn.Linear(16, 16, bias=bias), nn.ReLU(), nn.Linear(16, 16, bias=bias)
    layers[3].weight = layers[1].weight
    return nn.Sequential(*layers)


def tied(compute: Callable[..., Tensor]) -> Net:
    words = nn.Embedding(6, 4)
    out = nn.Linear(4, 6, bias=False)
    out.weight = words.weight
    return Net(lambda m, x: compute(m, m.body(m.words(x)).relu().mean(1)), out=out, words=words, body=nn.Linear(4, 4))


def linear(inputs: int = 8, outputs: int = 4) -> nn.Linear:
    return nn.Linear(inputs, outputs)


FOUND: dict[str, tuple[nn.Module, Tensor, str]] = {
    "declared first": (bodied(lambda m, x: m.fc(x), fc=linear()), VECTORS, "fc"),
    "auxiliary head": (bodied(lambda m, x: (m.aux(x), m.fc(x))[1], fc=linear(), aux=linear()), VECTORS, "fc"),
    "adapter declared after": (
        Net(lambda m, x: m.fc(m.body(x) + m.adapter(x)), fc=linear(), body=linear(16, 8), adapter=linear(16, 8)),
        VECTORS, "fc",
    ),
    "adapter after the head": (
        bodied(lambda m, x: m.adapter(m.fc(x)), adapter=linear(4), fc=linear()), VECTORS, "adapter"
    ),
    "attention": (
        Net(attended, head=linear(), into=linear(4, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True)),
        VECTORS, "head",
    ),
    "attention last": (
        Net(attended_last, attention=nn.MultiheadAttention(8, 2, batch_first=True), into=linear(16, 8)),
        VECTORS, "attention.out_proj",
    ),
    "encoder": (
        Net(encoded, head=linear(), token=nn.Parameter(torch.randn(1, 1, 8)), place=nn.Parameter(torch.randn(1, 5, 8)),
            into=linear(4, 8), encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 9, batch_first=True), 2)),
        VECTORS, "head",
    ),
    "squeeze-excitation, 1 × 1 convolution, pooling": (
        Net(squeezed, out=nn.Conv2d(8, 4, 1), conv=nn.Conv2d(1, 8, 3), squeeze=linear(8, 8)), IMAGES, "out",
    ),
    "transposed convolution": (
        Net(lambda m, x: m.out(m.conv(x)).mean((2, 3)), out=nn.ConvTranspose2d(8, 4, 1), conv=nn.Conv2d(1, 8, 3)),
        IMAGES, "out",
    ),
    "recurrent": (
        Net(lambda m, x: m.fc(m.lstm(x.view(len(x), 4, 4))[0][:, -1]),
            fc=linear(), lstm=nn.LSTM(4, 8, batch_first=True)),
        VECTORS, "fc",
    ),
    "log_softmax, scale, flatten, squeeze": (
        bodied(lambda m, x: (m.fc(x) * m.scale + m.shift).log_softmax(1)[:, :, None].squeeze(2).flatten(1),
               fc=linear(), scale=nn.Parameter(torch.ones(())), shift=nn.Parameter(torch.ones(1, 4))),
        VECTORS, "fc",
    ),
    "normalised, dropped": (
        bodied(lambda m, x: m.end(m.fc(x)), fc=linear(), end=nn.Sequential(nn.BatchNorm1d(4), nn.Dropout())),
        VECTORS, "fc",
    ),
    "scores turned by a fixed matrix": (bodied(lambda m, x: m.fc(x) @ torch.eye(4), fc=linear()), VECTORS, "fc"),
    "in place, into a slice": (
        bodied(lambda m, x: torch.zeros(len(x), 4).index_copy_(0, torch.arange(len(x)), m.fc(x)).relu_(), fc=linear()),
        VECTORS, "fc",
    ),
    "stacked on a table": (
        bodied(lambda m, x: torch.stack([m.fc(x), m.table.expand(len(x), 4)]).sum(0),
               fc=linear(), table=nn.Parameter(torch.ones(1, 4))),
        VECTORS, "fc",
    ),
    "normalised over two dimensions": (
        bodied(lambda m, x: m.norm(m.fc(x).view(len(x), 2, 2)).flatten(1), fc=linear(), norm=nn.LayerNorm((2, 2))),
        VECTORS, "fc",
    ),
    "functional": (bodied(lambda m, x: F.linear(x, m.fc.weight), fc=linear()), VECTORS, "fc"),
    "tied to a table of words": (tied(lambda m, x: m.out(x)), WORDS, "out"),
    "tied, functional": (tied(lambda m, x: F.linear(x, m.words.weight)), WORDS, "out"),
    "shared with the body": (sharing(bias=True), VECTORS, "3"),
    "shared with the body, no bias": (sharing(bias=False), VECTORS, "3"),
    "weight_norm": (nn.Sequential(linear(16), nn.ReLU(), parametrizations.weight_norm(linear(4))), VECTORS, "2"),
    "orthogonal": (nn.Sequential(linear(16), nn.ReLU(), parametrizations.orthogonal(linear(4))), VECTORS, "2"),
    "detached features": (bodied(lambda m, x: m.fc(x.detach()), fc=linear()), VECTORS, "fc"),
    "without gradients": (bodied(torch.no_grad()(lambda m, x: m.fc(x)), fc=linear()), VECTORS, "fc"),
    "frozen": (bodied(lambda m, x: m.fc(x), fc=linear()).requires_grad_(False), VECTORS, "fc"),
    "in parallel": (nn.DataParallel(bodied(lambda m, x: m.fc(x), fc=linear())), VECTORS, "module.fc"),
    "a list of outputs": (bodied(lambda m, x: [m.fc(x)], fc=linear()), VECTORS, "fc"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_the_head_is_where_the_output_comes_from(case: str) -> None:
    model, inputs, head = FOUND[case]
    assert find_head(model, inputs=inputs) == head
    assert Prunable(model, inputs=inputs).head == head


@pytest.mark.parametrize("frozen", [False, True])
def test_fused_attention_is_not_taken(frozen: bool) -> None:
    """In one operation all its weights work at once; so it computes where no gradients are asked for."""
    model, inputs, head = FOUND["attention last"]
    model = copy.deepcopy(model).requires_grad_(not frozen)
    with torch.set_grad_enabled(frozen):
        assert find_head(model, inputs=inputs) == head
    assert not any(parameter.requires_grad is frozen for parameter in model.parameters())


class Own(nn.Module):
    """A layer of a user's own, its weight called otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ni,io->no", x, self.matrix)


DOUBTFUL: dict[str, tuple[nn.Module, str]] = {
    "two heads added": (bodied(lambda m, x: m.one(x) + m.two(x), one=linear(), two=linear()), "'one', 'two' together"),
    "two heads side by side": (
        bodied(lambda m, x: torch.cat([m.one(x), m.two(x)], 1), one=linear(8, 2), two=linear(8, 2)),
        "'one', 'two' together",
    ),
    "two heads in a buffer": (bodied(preallocated, one=linear(8, 2), two=linear(8, 2)), "'one', 'two' together"),
    "two outputs": (
        bodied(lambda m, x: {"a": m.one(x), "b": m.two(x)}, one=linear(), two=linear()), "'one', 'two' together"
    ),
    "a gate": (bodied(lambda m, x: m.one(x) * m.two(x).sigmoid(), one=linear(), two=linear()), "'one', 'two' together"),
    "a bypass": (nn.Sequential(linear(16, 4), Net(lambda m, x: x + m.fc(x), fc=linear(4))), "'0', '1.fc' together"),
    "LoRA": (bodied(lambda m, x: m.fc(x) + x @ m.a @ m.b, fc=linear(), a=nn.Parameter(torch.randn(8, 1)),
                    b=nn.Parameter(torch.randn(1, 4))), "together"),
    "maxout": (
        bodied(lambda m, x: m.fc(x).view(len(x), 4, 2).amax(2), fc=linear(8, 8)), "'fc', which has 8 outputs, not 4"
    ),
    "classes that are its inputs": (
        bodied(lambda m, x: m.fc(x[:, :4]).view(len(x), 4, 3).sum(2), fc=linear(4, 12)),
        "'fc', which has 12 outputs, not 4",
    ),
    "a layer of a user's own": (bodied(lambda m, x: m.own(x), own=Own()), "'own', but Own has no parameter 'weight'"),
    "no layer": (Net(lambda m, x: x[:, :3]), "no layer with weights"),
    "outside PyTorch": (bodied(lambda m, x: torch.tensor(m.fc(x).detach().numpy()), fc=linear()), "no layer"),
}  # fmt: skip


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_doubtful_head_is_refused_and_asked_for(case: str) -> None:
    model, reason = DOUBTFUL[case]
    with pytest.raises(InputError, match=f"can't be found: its output comes from .*{reason}") as caught:
        find_head(model, inputs=VECTORS)
    assert 'head="…"' in str(caught.value)


@pytest.mark.parametrize("name", list(MODELS))
def test_built_in_models_keep_the_head_they_have(name: str) -> None:
    tokens = MODELS.entry(name).facts.takes == "tokens"
    shape = (5,) if tokens else (3, 32, 32)
    network = build(ModelSpec(name=name), input_shape=shape, classes=7, seed=0, tokens=tokens)
    batch = blank(shape, 2, tokens=tokens)
    wiring = watch(network, batch)
    assert find_head(network) == find_head(network, 7, inputs=batch) == "head"
    assert wiring.outputs == (None if tokens else 7)
    assert wiring.reaching == set(dict(network.named_parameters())), "everything is used"
    tables = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, nn.Embedding)}
    assert wiring.working - tables == {*Prunable(network, prune_head=True).names}


def test_compiled_models_are_seen_through() -> None:
    inner = bodied(lambda m, x: m.fc(x), fc=linear())
    compiled = torch.compile(inner, backend="eager")
    compiled(VECTORS)
    assert find_head(compiled, inputs=VECTORS) == "_orig_mod.fc"
    assert unwrapped(nn.DataParallel(compiled)) == ("module._orig_mod.", inner)
    inner.compile(backend="eager")
    assert find_head(inner, inputs=VECTORS) == "fc"


def test_what_the_output_depends_on_is_known() -> None:
    model = bodied(
        lambda m, x: (m.aux(x), m.fc(x * m.gate))[1],
        fc=linear(), aux=linear(), spare=nn.Conv2d(1, 1, 1), gate=nn.Parameter(torch.ones(8)),
    )  # fmt: skip
    wiring = watch(model, VECTORS)
    assert wiring.reaching == {"fc.weight", "fc.bias", "gate", "body.weight", "body.bias"}
    assert wiring.working == {"fc.weight", "aux.weight", "body.weight"}, "aux works, but for nothing"


def test_watching_touches_nothing() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc, self.calls = nn.BatchNorm1d(16), nn.Linear(16, 4), 0
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.seen += 1
            return self.fc(F.dropout(self.norm(x.relu_()), 0.5, training=True))

    model, inputs = Counting(), VECTORS.clone()
    model.fc.eval()
    model.fc.weight.grad = torch.ones(4, 16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert watch(model, inputs).last == ("fc",)
    assert torch.equal(torch.rand(2), expected), "the random state"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (model.training, model.norm.training, model.fc.training, model.calls) == (True, True, False, 0)
    assert torch.equal(model.fc.weight.grad, torch.ones(4, 16))
    assert torch.equal(inputs, VECTORS)
    assert not model.fc._forward_hooks


def test_a_network_that_fails_is_refused() -> None:
    with pytest.raises(InputError, match=r"Linear fails on a batch of shape \(5, 16\): RuntimeError"):
        watch(nn.Linear(4, 2), VECTORS)
    stuck = nn.Linear(16, 2)
    stuck.derived = stuck.weight * 2  # type: ignore[assignment]
    with pytest.raises(InputError, match="Linear can't be copied"):
        watch(stuck, VECTORS)


@pytest.mark.slow
def test_watching_does_not_load_the_compiler() -> None:
    """Which takes a second, and would be most of the time of a plan."""
    code = (
        "import sys, torch; from oneticket.wiring import watch; "
        "watch(torch.nn.Linear(3, 2), torch.zeros(1, 3)); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
