"""Finding, completing and building networks, and what bad input gets."""

import pickle
import sys

import msgspec
import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.models import MODELS, ModelSpec, build, complete, find_factory
from oneticket.models.lenet import lenet_300_100

SHAPE = (1, 8, 8)


def make(name, folder=None, classes=10, seed=0, packages=(), **options):
    spec = ModelSpec(name=name, options=options)
    return build(spec, input_shape=SHAPE, classes=classes, seed=seed, folder=folder, packages=packages)


def refusal(name, folder=None, **options):
    with pytest.raises(InputError) as caught:
        make(name, folder, **options)
    assert caught.value.where == f"model '{name}'"
    return caught.value


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of a name of its own into a folder, and returns that name."""
    imported = set(sys.modules)

    def write(text, folder=tmp_path):
        name = f"nets_{abs(hash((text, str(tmp_path))))}"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text("import torch\nfrom torch import nn\n" + text)
        return name

    yield write
    for name in set(sys.modules) - imported:
        del sys.modules[name]


FLAT = "def flat(input_shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))\n"


# what a spec is


def test_spec_is_read_from_a_file_and_refuses_unknown_keys():
    assert msgspec.convert({"name": "vgg19"}, ModelSpec) == ModelSpec(name="vgg19", options={})
    with pytest.raises(msgspec.ValidationError, match="optoins"):
        msgspec.convert({"name": "vgg19", "optoins": {}}, ModelSpec)


def test_completing_spells_out_defaults_and_types():
    short = ModelSpec(name="resnet18", options={"width": 1})
    full = complete(short).options
    assert full == {"width": 1.0, "norm": "batch", "shortcut": "projection", "stem": "auto"}
    assert isinstance(full["width"], float)
    assert complete(ModelSpec(name="resnet18")) == complete(short)


def test_completing_a_user_factory(module, tmp_path):
    name = module("def net(classes, rate: float = 1, size: int = None, act=nn.ReLU, **more): ...")
    full = complete(ModelSpec(name=f"{name}:net", options={"depth": 3}), folder=tmp_path).options
    assert full == {"rate": 1.0, "size": None, "depth": 3}
    assert isinstance(full["rate"], float)


# built-in names


def test_built_in_factories_are_found_by_name():
    assert find_factory("lenet-300-100") is lenet_300_100


def test_unknown_name():
    error = refusal("resnet-20")
    assert error.what == "unknown model 'resnet-20'"
    assert error.nearest == "resnet20"
    assert all(name in error.expected for name in [*MODELS, "package.module:function"])


def test_unknown_option():
    error = refusal("vgg11", widht=0.5)
    assert error.what == "unknown option 'widht'"
    assert error.nearest == "width"


@pytest.mark.parametrize("given", ["classes", "input_shape"])
def test_what_the_data_decide_is_no_option(module, tmp_path, given):
    for name in ("vgg11", module("def net(**anything): ...\n") + ":net"):
        with pytest.raises(InputError, match=f"unknown option '{given}'"):
            complete(ModelSpec(name=name, options={given: 3}), folder=tmp_path)


def test_wrong_word_names_the_nearest():
    error = refusal("resnet20", norm="grup")
    assert (error.what, error.nearest) == ("unknown norm 'grup'", "group")


def test_wrong_type():
    error = refusal("vgg11", width="half")
    assert error.what == "option 'width' cannot be 'half'"
    assert "float" in error.expected


# import paths


def test_import_path_of_an_installed_module():
    built_in, by_path = (
        make("lenet-300-100", seed=4),
        make("oneticket.models.lenet:lenet_300_100", seed=4, packages=["oneticket"]),
    )
    assert all(torch.equal(a, b) for a, b in zip(built_in.parameters(), by_path.parameters(), strict=True))


def test_import_path_of_a_file_in_the_folder(module, tmp_path):
    name = module(FLAT)
    assert make(f"{name}:flat", tmp_path)(torch.zeros(3, *SHAPE)).shape == (3, 10)


def test_the_current_directory_is_not_searched(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    path = f"{module(FLAT)}:flat"
    assert "is not imported here" in refusal(path).what
    assert "no module" in refusal(path, tmp_path / "other").what


def test_the_folder_comes_before_the_current_directory(module, tmp_path, monkeypatch):
    name = module(FLAT)
    near = tmp_path / "near"
    near.mkdir()
    (near / f"{name}.py").write_text("from torch import nn\nclass Near(nn.Sequential): ...\n")
    with (near / f"{name}.py").open("a") as file:
        file.write("def flat(input_shape, classes): return Near(nn.Flatten(), nn.LazyLinear(classes))\n")
    monkeypatch.chdir(tmp_path)
    assert type(make(f"{name}:flat", near)).__name__ == "Near"


def test_the_import_path_is_left_as_it_was(module, tmp_path):
    before = list(sys.path)
    make(f"{module(FLAT)}:flat", tmp_path)
    assert sys.path == before
    refusal(f"{module(FLAT + '#')}:flut", tmp_path)
    assert sys.path == before


def test_a_factory_may_import_its_neighbours_when_it_is_called(module, tmp_path):
    neighbour = module(FLAT)
    name = module(f"def net(input_shape, classes):\n    from {neighbour} import flat\n    return flat(None, classes)\n")
    assert isinstance(make(f"{name}:net", tmp_path), nn.Sequential)


def test_a_network_of_a_file_can_be_pickled(module, tmp_path):
    name = module("class Net(nn.Linear):\n    def forward(self, x): return super().forward(x.flatten(1))\n")
    network = make(f"{name}:Net", tmp_path, in_features=64, out_features=10)
    assert torch.equal(pickle.loads(pickle.dumps(network)).weight, network.weight)


def test_a_namesake_imported_before_is_not_taken_silently(module, tmp_path):
    name = module(FLAT)
    make(f"{name}:flat", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{name}.py").write_text(FLAT)
    error = refusal(f"{name}:flat", other)
    assert str(other) in error.what
    assert "already imported" in error.what


@pytest.mark.parametrize(
    ("signature", "received"),
    [
        ("input_shape, classes", {"input_shape", "classes"}),
        ("classes", {"classes"}),
        ("", set()),
        ("**anything", {"input_shape", "classes"}),
    ],
)
def test_a_factory_gets_what_its_signature_takes(module, tmp_path, signature, received):
    name = module(
        f"def net({signature}):\n    given = set(locals().get('anything', locals()))\n"
        "    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n    network.given = given\n    return network\n"
    )
    assert make(f"{name}:net", tmp_path).given == received


def test_options_reach_the_factory_with_the_type_of_its_signature(module, tmp_path):
    name = module(
        "def net(classes, sizes: tuple[int, ...], rate: float):\n    assert sizes == (64, 10), sizes\n"
        "    assert type(rate) is float\n    return nn.Sequential(nn.Flatten(), nn.Linear(*sizes))\n"
    )
    make(f"{name}:net", tmp_path, sizes=[64, 10], rate=1)


def test_annotations_only_for_the_type_checker_do_no_harm(module, tmp_path):
    name = module("def net(classes: 'Missing', rate: 'Missing' = 1):\n" + FLAT.splitlines()[1] + "\n")
    assert isinstance(make(f"{name}:net", tmp_path, rate=2), nn.Sequential)


def test_weights_of_an_imported_network_come_from_the_seed(module, tmp_path):
    """The lazy layer draws its weights in the first forward pass, so the check has to be under the seed too."""
    path = f"{module(FLAT)}:flat"
    torch.manual_seed(0)
    first, before = make(path, tmp_path, seed=7), torch.get_rng_state()
    torch.manual_seed(1)
    second = make(path, tmp_path, seed=7)
    assert torch.equal(first[1].weight, second[1].weight)
    assert not torch.equal(first[1].weight, make(path, tmp_path, seed=8)[1].weight)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_modes_are_left_as_the_factory_set_them(module, tmp_path):
    network = make(
        module(
            "def net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Dropout().eval(), nn.Linear(64, classes))\n"
        )
        + ":net",
        tmp_path,
    )
    assert [m.training for m in network] == [True, False, True]


# import paths that lead nowhere


@pytest.mark.parametrize("path", [":net", "nets:", "nets:a:b", "my-nets:net", "nets/file.py:net", "..nets:net"])
def test_malformed_path(path):
    error = refusal(path)
    assert error.what == f"'{path}' is not an import path"
    assert error.expected == "package.module:function"


def test_missing_module(tmp_path):
    error = refusal("no_such_nets:net", tmp_path)
    assert error.what == "there is no module 'no_such_nets' that may be imported"
    assert str(tmp_path) in error.expected


def test_missing_submodule():
    assert refusal("oneticket.no_such:net", packages=["oneticket"]).what == "there is no module 'oneticket.no_such'"


def test_missing_function(module, tmp_path):
    name = module(FLAT)
    error = refusal(f"{name}:flatt", tmp_path)
    assert error.what == f"module '{name}' has no function 'flatt'"
    assert error.nearest == "flat"


@pytest.mark.parametrize(
    ("text", "said"),
    [("import no_such_dependency\n", "no_such_dependency"), ("1 / 0\n", "ZeroDivision")],
)
def test_module_that_cannot_be_imported(module, tmp_path, text, said):
    name = module(text)
    error = refusal(f"{name}:net", tmp_path)
    assert said in str(error)
    assert name in str(error)


def test_module_that_is_not_python(module, tmp_path):
    name = module("def (\n")
    with pytest.raises(InputError, match=rf"{name}.py: is not valid Python \(SyntaxError: invalid syntax, line"):
        make(f"{name}:net", tmp_path)


def test_factory_without_a_signature(module, tmp_path):
    name = module(
        "class Net(nn.Module):\n    __signature__ = property(lambda self: None)\n    __init__ = type.__call__\n"
    )
    assert "parameters cannot be read" in refusal(f"{name}:Net", tmp_path).what


# factories that do something else


def test_option_that_an_imported_factory_does_not_take(module, tmp_path):
    name = module("def net(classes, depth=2): ...\n" + FLAT)
    assert refusal(f"{name}:net", tmp_path, deepth=3).nearest == "depth"
    assert refusal(f"{name}:flat", tmp_path, depth=3).expected == "none"


def test_option_that_an_imported_factory_lacks(module, tmp_path):
    error = refusal(module("def net(classes, depth): ...\n") + ":net", tmp_path)
    assert error.what == "option 'depth' is missing"


def test_factory_that_fails(module, tmp_path):
    error = refusal(module("def net(depth):\n    raise ValueError('too deep')\n") + ":net", tmp_path, depth=99)
    assert "ValueError: too deep" in error.what
    assert "depth=99" in error.what
    assert isinstance(error.__cause__, ValueError)


def test_factory_that_returns_no_network(module, tmp_path):
    assert refusal(module("def net(): return [1]\n") + ":net", tmp_path).what == "its factory returned a list"


def test_network_that_does_not_take_the_images(module, tmp_path):
    error = refusal(module("def net(): return nn.Linear(3, 10)\n") + ":net", tmp_path)
    assert error.what.startswith("fails on a batch of shape (2, 1, 8, 8): RuntimeError")


@pytest.mark.parametrize(
    ("body", "got"),
    [
        ("nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))", "(2, 11)"),
        ("nn.Sequential(nn.Linear(8, classes))", "(2, 1, 8, 10)"),
        ("nn.Sequential(nn.Flatten(), nn.Flatten(0), nn.Linear(128, classes))", "(10,)"),
        ("nn.Sequential(nn.Flatten(), nn.GRU(64, classes + 1))", "(2, 11)"),  # of a tuple, the first
    ],
)
def test_output_of_another_shape(module, tmp_path, body, got):
    error = refusal(module(f"def net(classes): return {body}\n") + ":net", tmp_path)
    assert error.what == f"its output for a batch of 2 is {got}"
    assert error.expected.startswith("shape (2, 10)")
