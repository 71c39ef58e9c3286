"""Networks of other libraries by name, with stand-ins for the libraries; the real ones are in tests/integrations."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.lab.spec.code import named_code
from oneticket.models import ModelSpec, build, code_digest, complete

NAMES = ["resnet18", "resnet50", "vit_small_patch16_224", "vit_tiny_patch16_224"]
SHAPE = (3, 8, 8)


def network(channels: int, classes: int, hidden: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def timm() -> ModuleType:
    module = ModuleType("timm")
    module.__version__ = "1.0"
    module.list_models = lambda: list(NAMES)
    module.is_model = lambda name: name.partition(".")[0] in NAMES
    module.create_model = lambda name, num_classes, in_chans, hidden=4: network(in_chans, num_classes, hidden)
    return module


def torchvision() -> ModuleType:
    module = ModuleType("torchvision")
    module.__version__ = "0.1"
    module.models = SimpleNamespace(
        list_models=lambda: list(NAMES), get_model=lambda name, weights, num_classes: network(3, num_classes)
    )
    return module


class Config:
    """As one of transformers: it takes what it knows, and hands the rest back."""

    def __init__(self, facts):
        vars(self).update({"num_channels": 1, "image_size": 224, "hidden": 4} | facts)

    @classmethod
    def from_pretrained(cls, place, return_unused_kwargs, **options):
        try:
            with open(f"{place}/config.json") as file:
                config = cls(json.load(file))
        except FileNotFoundError:
            raise OSError("We couldn't connect to the hub\nand more lines") from None
        unused = {key: value for key, value in options.items() if not hasattr(config, key)}
        vars(config).update(options)
        return config, unused

    def to_dict(self):
        return dict(vars(self))


class Answer(nn.Module):
    """Gives an object with logits."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, given):
        return SimpleNamespace(logits=self.inner(given))


def transformers() -> ModuleType:
    module = ModuleType("transformers")
    module.__version__ = "5.0"
    module.AutoConfig = Config
    module.AutoModelForImageClassification = SimpleNamespace(
        from_config=lambda c: Answer(network(c.num_channels, c.num_labels, c.hidden))
    )
    module.AutoModelForCausalLM = SimpleNamespace(
        from_config=lambda c: Answer(nn.Sequential(nn.Embedding(c.vocab_size, 4), nn.Linear(4, c.vocab_size)))
    )
    return module


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    for make in (timm, torchvision, transformers):
        monkeypatch.setitem(sys.modules, make.__name__, make())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text('{"hidden": 6, "transformers_version": "4.0"}')
    return tmp_path


def make(name, shape=SHAPE, folder=None, tokens=False, seed=0, **options):
    spec = ModelSpec(name=name, options=options)
    return build(spec, input_shape=shape, classes=7, seed=seed, folder=folder, tokens=tokens)


def refusal(name, **options):
    with pytest.raises(InputError) as caught:
        make(name, **options)
    assert caught.value.where == f"model '{name}'"
    return caught.value


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "torchvision:resnet18", "transformers:small"])
def test_a_network_is_built_from_its_seed(name, folder) -> None:
    first, again, other = (make(name, folder=folder, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_options_channels_and_classes_reach_the_library(folder) -> None:
    assert make("timm:resnet18", (1, 8, 8), hidden=9)[1].weight.shape == (9, 64)
    assert make("transformers:small", (1, 8, 8), folder=folder).inner[1].weight.shape == (6, 64)
    assert make("transformers:small", folder=folder, hidden=5).inner[1].weight.shape == (5, 192)
    assert make("transformers:small", (4,), folder=folder, tokens=True).inner[0].num_embeddings == 7


def test_a_folder_of_transformers_lies_beside_the_experiment(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    assert make("transformers:small").inner[1].out_features == 6
    assert make(f"transformers:{folder / 'small'}").inner[1].out_features == 6


def test_unknown_names_list_the_nearest() -> None:
    for library in ("timm", "torchvision"):
        error = refusal(f"{library}:vit_tiny_patch16_24")
        assert error.what == "unknown name 'vit_tiny_patch16_24'"
        assert error.expected.startswith("one of its 4 names; the nearest are vit_tiny_patch16_224, vit_small_patch16")
        assert error.nearest == "vit_tiny_patch16_224"


def test_a_hub_that_is_out_of_reach(folder) -> None:
    error = refusal("transformers:google/vit-base", folder=folder)
    assert error.what == (
        "'google/vit-base' is not a folder with a config.json, and the hub does not give one: "
        "OSError: We couldn't connect to the hub"
    )
    assert "needs no network" in error.expected


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_a_missing_library_is_named_with_its_command(library, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    error = refusal(f"{library}:resnet18")
    assert error.what == f"{library} is not installed"
    assert error.expected == f"pip install 'oneticket[{library}]'"


def test_a_library_that_cannot_be_imported_says_why(monkeypatch, tmp_path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision")
    error = refusal("torchvision:resnet18")
    assert error.what == "torchvision cannot be imported: RuntimeError: operator torchvision::nms does not exist"
    assert f"made for torch {torch.__version__}" in error.expected


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("timm:resnet18", {"pretrained": True}, "option 'pretrained' would load weights"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "option 'weights' would load weights"),
        ("timm:resnet18", {"classes": 3}, "unknown option 'classes'"),
        ("timm:resnet18", {"depth": 3}, "cannot be built with .*unexpected keyword argument 'depth'"),
        ("transformers:small", {"depth": 3}, "unknown option 'depth'"),
    ],
)
def test_options_that_do_not_fit(name, options, said, folder) -> None:
    with pytest.raises(InputError, match=said):
        make(name, folder=folder, **options)


def test_what_is_loaded_is_in_the_identity(folder, monkeypatch) -> None:
    def digests() -> list[str | None]:
        names = ("timm:resnet18", "torchvision:resnet18", "transformers:small")
        return [code_digest(ModelSpec(name=name), folder=folder) for name in names]

    before = digests()
    assert len({*before}) == 3
    assert digests() == before
    (folder / "small" / "config.json").write_text('{"hidden": 6, "transformers_version": "5.0"}')
    assert digests() == before, "which version wrote the file is of no account"
    (folder / "small" / "config.json").write_text('{"hidden": 7}')
    assert [a == b for a, b in zip(digests(), before, strict=True)] == [True, True, False]
    for name in ("timm", "torchvision", "transformers"):
        monkeypatch.setattr(sys.modules[name], "__version__", "99")
    assert not {*digests()} & {*before}
    assert complete(ModelSpec(name="timm:resnet18", options={"hidden": 3})).options == {"hidden": 3}


def test_the_name_of_a_library_is_not_own_code(tmp_path) -> None:
    for raw in ({"model": "timm:resnet18"}, {"model": [{"name": "transformers:a/b-c"}, "vgg11"]}):
        assert named_code(raw, tmp_path).models == ()
