"""Experiment files: what is read, and that everything wrong is refused with its key and the nearest valid word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.lab.spec.experiment import load_experiment, read_experiment
from oneticket.lab.spec.parsing import read_toml, split_role
from oneticket.models import ModelSpec


def refused(lab: Any, path: str, value: Any) -> str:
    """The message for the tiny experiment with one value replaced."""
    with pytest.raises(InputError) as caught:
        read_experiment(lab.raw(**{path.replace("/", "__"): value}))
    return str(caught.value)


UNKNOWN_KEYS = [
    ("modle", "lenet-300-100", "unknown key 'modle'", "model"),
    ("data/digits/bultin", "digits", "data.digits: unknown key 'bultin'", "builtin"),
    ("recipe/sgd/optimiser", "sgd", "recipe.sgd: unknown key 'optimiser'", "optimizer"),
    ("recipe/sgd/schedule", {"kind": "step", "at": ["1ep"], "facto": 0.1}, "recipe.sgd.schedule: unknown", "factor"),
    ("recipe/sgd/schedule", {"kind": "cosine", "finale": 0.1}, "recipe.sgd.schedule: unknown key 'finale'", "final"),
    ("recipe/sgd/augment", {"flipp": True}, "recipe.sgd.augment: unknown key 'flipp'", "flip"),
    ("search/round", 3, "search: unknown key 'round'", "rounds"),
    ("transfer/0/source", ["low@sgd"], "transfer[0]: unknown key 'source'", "sources"),
    ("arm/mine", {"mask": "ticket", "weight": "rewound"}, "arm.mine: unknown key 'weight'", "weights"),
    ("model", {"name": "lenet-300-100", "option": {}}, "model: unknown key 'option'", "options"),
    ("model", ["lenet-300-100", {"nam": "vgg11"}], "model[1]: unknown key 'nam'", "name"),
]


@pytest.mark.parametrize(("path", "value", "text", "near"), UNKNOWN_KEYS)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_valid_key(
    lab: Any, path: str, value: Any, text: str, near: str
) -> None:
    message = refused(lab, path, value)
    assert text in message
    assert f"did you mean '{near}'?" in message
    assert "expected one of" in message


def test_the_valid_keys_are_those_of_the_schedule_that_was_meant(lab: Any) -> None:
    assert "expected one of kind, final" in refused(lab, "recipe/sgd/schedule", {"kind": "cosine", "at": ["1ep"]})
    assert "expected one of kind, at, factor" in refused(
        lab, "recipe/sgd/schedule", {"kind": "step", "at": ["1ep"], "final": 0.0}
    )


WRONG_TYPES = [
    ("name", 3, "name: 3 is a whole number; expected text"),
    ("seeds", True, "seeds: true is a truth value; expected a whole number or a list"),
    ("seeds", "3", "seeds: '3' is text"),
    ("seeds", 2.5, "seeds: 2.5 is a number"),
    ("recipe/sgd/lr", "0.1", "recipe.sgd.lr: '0.1' is text; expected a number"),
    ("recipe/sgd/epochs", 2.5, "recipe.sgd.epochs: 2.5 is a number; expected a whole number"),
    ("recipe/sgd/epochs", True, "recipe.sgd.epochs: true is a truth value; expected a whole number"),
    ("recipe/sgd/nesterov", "False", "recipe.sgd.nesterov: 'False' is text; expected true or false"),
    ("recipe/sgd/nesterov", 1, "recipe.sgd.nesterov: 1 is a whole number; expected true or false"),
    ("recipe/adam/betas", [0.9], "recipe.adam.betas"),
    ("recipe/sgd/schedule", "step", "recipe.sgd.schedule: 'step' is text; expected a table"),
    ("search/prune_head", "False", "search.prune_head: 'False' is text; expected true or false"),
    ("search", 3, "search: 3 is a whole number; expected a table"),
    ("transfer", {}, "transfer: this is a table; expected a list"),
    ("transfer/0/densities", ["0.5"], "transfer[0].densities[0]: '0.5' is text; expected a number"),
    ("transfer/0/arms", "winning", "transfer[0].arms: 'winning' is text; expected a list, such as ['winning']"),
    ("data", [], "data: this is a list; expected a table"),
    ("data/digits", "digits", "data.digits: 'digits' is text; expected a table"),
    ("data/low/classes", [0.5], "data.low.classes[0]"),
    ("arm/mine", {"mask": 1, "weights": "rewound"}, "arm.mine.mask: 1 is a whole number; expected text"),
]


@pytest.mark.parametrize(("path", "value", "text"), WRONG_TYPES)
def test_a_wrong_type_is_refused_at_its_key(lab: Any, path: str, value: Any, text: str) -> None:
    assert refused(lab, path, value).startswith(text)


UNKNOWN_WORDS = [
    ("recipe/sgd/optimizer", "sgdd", "recipe.sgd.optimizer", "sgd"),
    ("recipe/sgd/precision", "bf-16", "recipe.sgd.precision", "bf16"),
    ("recipe/sgd/schedule", {"kind": "cosin"}, "recipe.sgd.schedule.kind", "cosine"),
    ("data/digits/fit", "resise", "data.digits.fit", "resize"),
    ("data/low/from", "digit", "data.low.from", "digits"),
    ("search/criterion", "magnitud", "search.criterion", "magnitude"),
    ("search/allocation", "globl", "search.allocation", "global"),
    ("search/method", "rewnd", "search.method", "rewind"),
    ("transfer/0/arms", ["wining"], "transfer[0].arms", "winning"),
    ("transfer/0/rescale", ["fanin"], "transfer[0].rescale", "fan-in"),
    ("transfer/0/sources", ["lo@sgd"], "transfer[0].sources", "low"),
    ("transfer/0/targets", ["digits@sdg"], "transfer[0].targets", "sgd"),
    ("transfer/0/densities", "al", "transfer[0].densities", "all"),
    ("arm/mine", {"mask": "tickt", "weights": "rewound"}, "arm.mine", "ticket"),
    ("arm/mine", {"mask": "ticket", "weights": "redrawn"}, "arm.mine", "re-drawn"),
    ("arm/mine", {"mask": "ticket", "weights": "rewound", "method": "trian"}, "arm.mine", "train"),
]


@pytest.mark.parametrize(("path", "value", "place", "near"), UNKNOWN_WORDS)
def test_an_unknown_word_is_refused_with_the_choices_and_the_nearest(
    lab: Any, path: str, value: Any, place: str, near: str
) -> None:
    message = refused(lab, path, value)
    assert message.startswith(f"{place}: ")
    assert "expected one of" in message
    assert f"did you mean '{near}'?" in message


OUT_OF_RANGE = [
    ("seeds", 0, "seeds"),
    ("seeds", -1, "seeds"),
    ("seeds", [], "seeds"),
    ("seeds", [1, 1], "seeds"),
    ("seeds", [-1], "seeds"),
    ("seeds", 10**9, "seeds"),
    ("transfer/0/densities", [0], "transfer[0].densities"),
    ("transfer/0/densities", [0.0], "transfer[0].densities"),
    ("transfer/0/densities", [1.01], "transfer[0].densities"),
    ("transfer/0/densities", [-0.5], "transfer[0].densities"),
    ("transfer/0/densities", [float("nan")], "transfer[0].densities[0]"),
    ("transfer/0/densities", [], "transfer[0].densities"),
    ("transfer/0/arms", [], "transfer[0].arms"),
    ("transfer/0/targets", [], "transfer[0].targets"),
    ("transfer/0/sources", [], "transfer[0].sources"),
    ("transfer", [], "transfer"),
    ("model", [], "model"),
    ("search/prune", 0, "search"),
    ("search/prune", 1, "search"),
    ("search/prune", 1.5, "search"),
    ("search/rounds", 0, "search"),
    ("search/rounds", 10**9, "search.rounds"),
    ("search/rewind", "1 epoch", "search"),
    ("search/rewind", -1, "search"),
    ("search/prunable", ["linear1.weight", "linear1.weight"], "search.prunable"),
    ("recipe/sgd/epochs", 0, "recipe.sgd"),
    ("recipe/sgd/batch_size", 0, "recipe.sgd"),
    ("recipe/sgd/lr", 0, "recipe.sgd"),
    ("recipe/sgd/lr", -0.1, "recipe.sgd"),
    ("recipe/sgd/lr", float("nan"), "recipe.sgd.lr"),
    ("recipe/sgd/lr", float("inf"), "recipe.sgd.lr"),
    ("recipe/sgd/clip_norm", float("inf"), "recipe.sgd.clip_norm"),
    ("recipe/sgd/momentum", 1, "recipe.sgd"),
    ("recipe/sgd/epochs", 2**64, "recipe.sgd.epochs"),
    ("recipe/sgd/schedule", {"kind": "step", "at": ["1ep"], "factor": 0}, "recipe.sgd.schedule"),
    ("recipe/sgd/schedule", {"kind": "step", "at": ["soon"]}, "recipe.sgd.schedule"),
    ("recipe/sgd/augment", {"crop": -1}, "recipe.sgd.augment"),
    ("data/digits/per_class", 0, "data.digits: per_class"),
    ("data/digits/fraction", 2.0, "data.digits: fraction"),
    ("data/digits/size", 10**6, "data.digits: size"),
    ("data/digits/validation", 1, "data.digits: validation"),
    ("data/spare", {"from": "digits", "fraction": 0}, "data.spare: fraction"),
    ("data/spare", {}, "data.spare"),
    ("data/spare", {"builtin": "digits", "path": "x"}, "data.spare"),
    ("data/low/from", "low", "data.low.from"),
]


@pytest.mark.parametrize(("path", "value", "place"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_at_its_place(lab: Any, path: str, value: Any, place: str) -> None:
    assert refused(lab, path, value).startswith(f"{place}: ")


@pytest.mark.parametrize("method", ["fine-tune", "lr-rewind"])
@pytest.mark.parametrize("rescale", ["layer", "fan-in", "smup"])
def test_rescalings_that_would_compound_over_the_rounds_are_refused(lab: Any, rescale: str, method: str) -> None:
    message = refused(lab, "search", {"rounds": 3, "method": method, "rescale": rescale})
    assert message.startswith("search.rescale, for low@sgd: ")
    assert "would multiply" in message


MISSING = ["name", "model", "data", "recipe", "transfer", "recipe/sgd/lr", "recipe/sgd/epochs", "transfer/0/targets"]


@pytest.mark.parametrize("path", MISSING)
def test_a_missing_key_is_named(lab: Any, path: str) -> None:
    assert f"the key '{path.rpartition('/')[2]}' is missing" in refused(lab, path, ...)


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", ".hidden", "a" * 101, "ä", "x\n"])
def test_a_name_that_could_not_be_a_file_is_refused(lab: Any, name: str) -> None:
    assert refused(lab, "name", name).startswith("name: ")
    raw = lab.raw()
    raw["data"][name] = {"builtin": "digits"}
    with pytest.raises(InputError, match="data"):
        read_experiment(raw)


@pytest.mark.parametrize("letter", ["\x00", "\x1b", "\x1f", "\n", "\x7f", "\x9b"])
def test_control_characters_are_refused_wherever_they_stand(lab: Any, letter: str) -> None:
    word = f"U+{ord(letter):04X}"
    assert word in refused(lab, "data/low/classes", [f"a{letter}"])
    assert word in refused(lab, "data/digits/path", f"a{letter}")
    assert word in refused(lab, "search/prunable", [f"a{letter}"])
    message = refused(lab, f"data/a{letter}b", {"builtin": "digits"})
    assert word in message
    assert letter not in message


def test_an_arm_of_the_literature_cannot_be_redefined(lab: Any) -> None:
    assert "exists already" in refused(lab, "arm/random", {"mask": "ticket", "weights": "rewound"})


def test_a_dense_arm_is_refused_because_it_is_always_there(lab: Any) -> None:
    assert "arm.scratch.mask" in refused(lab, "arm/scratch", {"mask": "dense", "weights": "initial"})
    lab.plan(arm__begun={"mask": "dense", "weights": "rewound"})  # W_k of a source is no part of the table


@pytest.mark.parametrize("role", ["low", "@sgd", "low@", "@", ""])
def test_a_role_is_data_at_recipe(lab: Any, role: str) -> None:
    assert "expected data@recipe" in refused(lab, "transfer/0/sources", [role])


def test_split_role() -> None:
    assert split_role("fashion@sgd") == ("fashion", "sgd")


# -- what is read -------------------------------------------------------------------------------------------------
def test_seeds_are_a_number_of_replicates_or_a_list(lab: Any) -> None:
    assert read_experiment(lab.raw(seeds=3)).replicates == (0, 1, 2)
    assert read_experiment(lab.raw(seeds=[7, 3])).replicates == (7, 3)


def test_a_model_is_a_name_a_table_or_a_list_of_both(lab: Any) -> None:
    table = {"name": "vgg11", "options": {"width": 0.1}}
    spec = ModelSpec(name="vgg11", options={"width": 0.1})
    assert read_experiment(lab.raw(model="vgg11")).models == [ModelSpec(name="vgg11")]
    assert read_experiment(lab.raw(model=table)).models == [spec]
    assert read_experiment(lab.raw(model=["conv-2", table])).models == [ModelSpec(name="conv-2"), spec]


def test_whole_numbers_for_numbers_and_spelled_out_defaults_make_no_difference(lab: Any) -> None:
    plain = lab.raw(recipe__sgd={"optimizer": "sgd", "lr": 1, "epochs": 3})
    spelled = lab.raw(
        recipe__sgd={
            "optimizer": "sgd", "lr": 1.0, "epochs": 3, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0001,
            "batch_size": 128, "warmup": 0, "label_smoothing": 0, "schedule": {"kind": "constant"},
        }
    )  # fmt: skip
    assert read_experiment(plain) == read_experiment(spelled)
    assert isinstance(read_experiment(plain).recipe["sgd"].lr, float)


# -- names that mean a missing value ------------------------------------------------------------------------------
MISSING = ["NA", "na", "Na", "null", "NULL", "nan", "NaN", "None", "none", "N.A.", "nil", "NaT", "missing"]


@pytest.mark.parametrize("word", MISSING)
def test_no_name_is_one_that_programs_take_for_a_missing_value(lab: Any, word: str) -> None:
    """In the columns experiment, target, target_recipe and arm such a name would be an empty field."""
    raw = lab.raw()
    arm = {"mask": "ticket", "weights": "initial"}
    for path, value, place in (
        ("name", word, "name"),
        (f"data/{word}", {"builtin": "digits"}, "data"),
        (f"recipe/{word}", raw["recipe"]["sgd"], "recipe"),
        (f"arm/{word}", arm, "arm"),
    ):
        with pytest.raises(InputError, match=f"^{place}: '{word}' is not a valid name: .* a missing value"):
            read_experiment(lab.raw(**{path.replace("/", "__"): value}))


def test_what_pandas_reads_as_missing_is_no_name(lab: Any) -> None:
    io = pytest.importorskip("pandas.io.parsers.readers")
    for word in io.STR_NA_VALUES:
        with pytest.raises(InputError, match="is not a valid name"):
            read_experiment(lab.raw(name=word))


@pytest.mark.parametrize("word", ["nano", "NAS", "nulls", "none-at-all", "na1", "N-A", "1.5", "inf"])
def test_names_that_only_look_alike_are_names(lab: Any, word: str) -> None:
    assert read_experiment(lab.raw(name=word)).name == word


# -- sizes that nothing could hold ----------------------------------------------------------------------------------
TOO_LARGE = [
    ({"seeds": 10_000, "transfer__0__densities": [0.5] * 4}, "networks"),
    ({"transfer__0__lr": [0.1 + i for i in range(20_000)]}, "networks"),
    ({"model": ["lenet-300-100"] * 101}, "101 models"),
    ({"model": []}, "0 models"),
    ({"data": {f"d{i}": {"builtin": "digits"} for i in range(1001)}}, "1001 tables"),
    ({"arm": {f"a{i}": {"mask": "ticket", "weights": "initial"} for i in range(1001)}}, "1001 tables"),
]


@pytest.mark.parametrize(("changes", "said"), TOO_LARGE)
def test_a_grid_that_is_too_large_is_refused_before_it_is_planned(lab: Any, changes: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_experiment(lab.raw(**changes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = " + "[" * 5000, "nested too deeply"),
        ("x = " + "[" * 20 + "]" * 20, "nested too deeply"),
        (".".join("a" * 20) + " = 1", "too many dots"),
        ("x = {" + ".".join(["'a.'"] * 20) + " = 1}", "too many dots"),
        ("[" + " . ".join(['"a"'] * 20) + "]", "too many dots"),
        (f"x = {'9' * 5000}", "not valid TOML"),
        ("#" * (2**20 + 1), "at most 1048576"),
    ],
)
def test_a_file_that_would_take_time_or_memory_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "large.toml").write_text(text)
    with pytest.raises(InputError, match=f"large.toml: .*{said}"):
        load_experiment(tmp_path / "large.toml")


def test_dots_in_texts_numbers_and_comments_are_no_depth(tmp_path: Path) -> None:
    file = tmp_path / "dots.toml"
    lines = [
        "# " + "." * 99,
        "# a. b. c",
        "x = [" + ", ".join(["0.5"] * 99) + "]",
        'y = "../../../../../../../../../a"',
    ]
    file.write_text("\n".join(lines))
    assert len(read_toml(file)["x"]) == 99


# -- the file itself ----------------------------------------------------------------------------------------------
def test_a_missing_file_is_told_with_the_nearest_beside_it(tmp_path: Path) -> None:
    (tmp_path / "quickstart.toml").touch()
    with pytest.raises(InputError, match=r"no such file.*did you mean 'quickstart.toml'"):
        load_experiment(tmp_path / "quickstrat.toml")


def test_broken_toml_is_told_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text('name = "x"\nseeds = \n')
    with pytest.raises(InputError, match=r"broken.toml: the file is not valid TOML: .*line 2"):
        load_experiment(file)


def test_a_folder_and_a_file_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_experiment(tmp_path)
    file = tmp_path / "latin.toml"
    file.write_bytes(b'name = "\xff"')
    with pytest.raises(InputError, match=r"latin.toml: the file cannot be read"):
        load_experiment(file)


def test_every_fault_of_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "faulty.toml"
    file.write_text('name = "x"\nmodel = "vgg11"\nmode = 1\n')
    with pytest.raises(InputError, match=r"faulty.toml: unknown key 'mode'"):
        load_experiment(file)
