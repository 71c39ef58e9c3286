"""What put_into does to tensors that fit, to the head, to the first layer, and to what does not fit."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.randomness import Streams
from oneticket.ticket import Ticket


def network(channels: int = 1, width: int = 4, classes: int = 3, *, norm: bool = True, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[tuple[str, nn.Module]] = [("stem", nn.Conv2d(channels, width, 3)), ("act", nn.Tanh())]
    if norm:
        layers.insert(1, ("norm", nn.BatchNorm2d(width)))
    layers += [("conv", nn.Conv2d(width, 5, 3)), ("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten())]
    return nn.Sequential(OrderedDict([*layers, ("fc", nn.Linear(5, classes))]))


def ticket_of(model: nn.Module, density: float = 0.5, head: str | None = None, prune_head: bool = False) -> Ticket:
    prunable = Prunable(model, head=head, prune_head=prune_head)
    generator = torch.Generator().manual_seed(0)
    masks = Masks({n: torch.rand(w.shape, generator=generator) < density for n, w in prunable.weights()})
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in masks}
    return Ticket(masks, prunable.values(), rest, prunable.head)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# -- an equal model --------------------------------------------------------------------------------------------------
def test_everything_but_the_head_arrives() -> None:
    source, target = network(seed=1), network(seed=2)
    source.norm.running_mean.fill_(7.0)
    ticket = ticket_of(source)
    parameters = dict(target.named_parameters())
    placement = ticket.put_into(target)
    assert dict(target.named_parameters()).keys() == parameters.keys()
    assert all(p is parameters[name] for name, p in target.named_parameters()), "parameters were replaced"
    now = target.state_dict()
    for name, value in source.state_dict().items():
        if not name.startswith("fc."):
            expected = value * ticket.masks[name] if name in ticket.masks else value
            assert torch.equal(now[name], expected), name
    assert {name for name, _ in placement.matched} == {n for n in now if not n.startswith("fc.")}
    assert placement.refused == ()
    assert placement.densities == ticket.masks.densities()
    assert ticket.masks["stem.weight"].shape == (4, 1, 3, 3)


def test_the_ticket_is_not_tied_to_the_model() -> None:
    model = network()
    ticket = ticket_of(model)
    before = ticket.weights["conv.weight"].clone()
    ticket.put_into(model)
    with torch.no_grad():
        model.conv.weight.add_(1.0)
        model.conv.bias.add_(1.0)
    assert torch.equal(ticket.weights["conv.weight"], before)
    assert not torch.equal(ticket.rest["conv.bias"], model.conv.bias)


def test_values_are_cast_to_the_models_type() -> None:
    source = network()
    target = network(seed=1).to(torch.bfloat16)
    ticket_of(source).put_into(target)
    assert target.conv.weight.dtype == torch.bfloat16


# -- the head --------------------------------------------------------------------------------------------------------
@given(seed=st.integers(0, 50))
def test_a_fresh_head_is_what_a_new_layer_draws_under_the_head_stream(seed: int) -> None:
    model = network(classes=7)
    ticket_of(network()).put_into(model, seed=seed)
    torch.manual_seed(Streams(seed).seed("head"))
    expected = nn.Linear(5, 7)
    assert torch.equal(model.fc.weight, expected.weight)
    assert torch.equal(model.fc.bias, expected.bias)


def test_the_head_is_fresh_also_where_source_is_target() -> None:
    model = network()
    before = model.fc.weight.detach().clone()
    ticket = ticket_of(model)
    placement = ticket.put_into(model)
    assert not torch.equal(model.fc.weight, before)
    assert ("fc.weight", "head drawn anew, seed 0") in placement.fresh
    first = model.fc.weight.detach().clone()
    ticket.put_into(model, seed=1)
    assert not torch.equal(model.fc.weight, first)


def test_put_into_leaves_the_global_random_state_alone() -> None:
    model, ticket = network(), ticket_of(network())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ticket.put_into(model)
    assert torch.equal(torch.rand(3), expected)


def test_keep_leaves_the_models_head() -> None:
    model = network(classes=9)
    before = state(model)
    placement = ticket_of(network(seed=1)).put_into(model, head="keep")
    assert torch.equal(model.fc.weight, before["fc.weight"])
    assert torch.equal(model.fc.bias, before["fc.bias"])
    assert ("fc.bias", "head left as it was") in placement.fresh


def test_copied_takes_the_tickets_head_where_the_classes_agree() -> None:
    source, model = network(seed=1), network(seed=2)
    placement = ticket_of(source).put_into(model, head="copied")
    assert torch.equal(model.fc.weight, source.fc.weight)
    assert torch.equal(model.fc.bias, source.fc.bias)
    assert placement.fresh == ()


def test_copied_is_fresh_and_says_so_where_the_classes_differ() -> None:
    model, same = network(classes=10), network(classes=10)
    placement = ticket_of(network()).put_into(model, head="copied", seed=4)
    ticket_of(network()).put_into(same, head="fresh", seed=4)
    assert torch.equal(model.fc.weight, same.fc.weight)
    reasons = dict(placement.fresh)
    assert "(3, 5)" in reasons["fc.weight"]
    assert "(10, 5)" in reasons["fc.weight"]


def test_heads_of_different_names_are_heads_all_the_same() -> None:
    source = network(seed=1)
    model = network(seed=2)
    model.add_module("classifier", model.fc)
    del model.fc
    placement = ticket_of(source).put_into(model, head="copied")
    assert torch.equal(model.classifier.weight, source.fc.weight)
    assert {"classifier.weight", "classifier.bias"} <= {name for name, _ in placement.matched}
    assert not placement.refused


def test_a_named_head_is_not_filled_from_a_hidden_layer() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    shallow = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    ticket = ticket_of(deep)
    with pytest.warns(UserWarning, match=r"1\.weight: belongs to the head"):
        placement = ticket.put_into(shallow, model_head="1")
    assert ("1.weight", "belongs to the head of the model") in placement.refused
    torch.manual_seed(Streams(0).seed("head"))
    assert torch.equal(shallow[1].weight, nn.Linear(4, 4).weight)


def test_a_pruned_head_travels_only_as_a_copy() -> None:
    source = network(seed=1)
    ticket = ticket_of(source, prune_head=True)
    copied, fresh = network(seed=2), network(seed=2)
    assert "fc.weight" in ticket.put_into(copied, head="copied").masks
    assert torch.equal(copied.fc.weight, ticket.weights["fc.weight"])
    assert "fc.weight" not in ticket.put_into(fresh, head="fresh").masks
    assert fresh.fc.weight.count_nonzero() == fresh.fc.weight.numel()


def test_a_head_without_reset_parameters_is_drawn_kaiming_normal() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(300, 200))
            self.bias = nn.Parameter(torch.ones(300))

    model = nn.Sequential(OrderedDict(body=nn.Linear(6, 200), top=Scores()))
    ticket_of(model, head="top").put_into(model, model_head="top")
    assert not model.top.bias.any()
    assert model.top.weight.std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.02)


def test_a_tensor_tied_to_the_head_belongs_to_the_head() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 4)
            self.body = nn.Linear(4, 4)
            self.out = nn.Linear(4, 6, bias=False)
            self.out.weight = self.embed.weight

    torch.manual_seed(0)
    model = Tied()
    before = model.embed.weight.detach().clone()
    ticket = ticket_of(Tied())
    ticket.put_into(model, head="keep")
    assert torch.equal(model.embed.weight, before)
    ticket.put_into(model, head="fresh")
    assert not torch.equal(model.embed.weight, before)
    assert model.out.weight is model.embed.weight


# -- the first layer -------------------------------------------------------------------------------------------------
def test_grey_to_rgb_computes_the_same_on_a_replicated_image() -> None:
    source, model = network(1).eval(), network(3, seed=2).eval()
    ticket = ticket_of(source)
    placement = ticket.put_into(model, head="copied")
    ticket.put_into(source, head="copied")
    grey = torch.randn(6, 1, 9, 9)
    assert torch.allclose(model(grey.expand(-1, 3, -1, -1)), source(grey), atol=1e-6)
    assert torch.equal(placement.masks["stem.weight"], ticket.masks["stem.weight"].expand(-1, 3, -1, -1))
    assert placement.densities["stem.weight"] == ticket.masks.densities()["stem.weight"]
    assert "grey→rgb" in dict(placement.matched)["stem.weight"]


def test_rgb_to_grey_computes_the_same_as_on_a_replicated_image() -> None:
    source, model = network(3).eval(), network(1, seed=2).eval()
    ticket = ticket_of(source, density=0.2)
    placement = ticket.put_into(model, head="copied")
    ticket.put_into(source, head="copied")
    grey = torch.randn(6, 1, 9, 9)
    assert torch.allclose(model(grey), source(grey.expand(-1, 3, -1, -1)), atol=1e-6)
    union = ticket.masks["stem.weight"]
    assert torch.equal(placement.masks["stem.weight"][:, 0], union[:, 0] | union[:, 1] | union[:, 2])


def test_an_adapted_stem_stays_masked_in_training() -> None:
    ticket, model = ticket_of(network(1)), network(3)
    placement = ticket.put_into(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ticket.kept(optimizer):
        model(torch.randn(4, 3, 9, 9)).sum().backward()
        optimizer.step()
    assert not model.stem.weight[~placement.masks["stem.weight"]].any()
    assert model.stem.weight[placement.masks["stem.weight"]].all()


def test_a_fresh_stem_is_left_as_it_was() -> None:
    model = network(3)
    before = state(model)
    placement = ticket_of(network(1, seed=1)).put_into(model, stem="fresh")
    assert torch.equal(model.stem.weight, before["stem.weight"])
    assert torch.equal(model.stem.bias, before["stem.bias"])
    assert list(placement.masks) == ["conv.weight"]
    assert "stem.weight" in dict(placement.fresh)
    assert not placement.refused


@pytest.mark.parametrize(("stem", "channels"), [("strict", 3), ("adapt", 4)])
def test_other_channels_are_refused(stem: str, channels: int) -> None:
    model = network(channels)
    before = state(model)
    with pytest.warns(UserWarning, match=r"1 of 2 masked tensors refused: stem\.weight"):
        placement = ticket_of(network(1, seed=1)).put_into(model, stem=stem)
    assert [name for name, _ in placement.refused] == ["stem.weight"]
    assert "channels = 1" in placement.refused[0].reason
    assert torch.equal(model.stem.weight, before["stem.weight"])


def test_only_the_first_layer_is_adapted() -> None:
    # Behind a layer that was refused, 1 against 3 channels is a matter of width, not of colour.
    source, model = network(1, width=1, norm=False), network(1, width=3, norm=False)
    with pytest.raises(InputError, match="no prunable tensor"):
        ticket_of(source).put_into(model)


def test_a_grouped_convolution_is_no_grey_stem() -> None:
    source = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    model = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.warns(UserWarning, match="refused"):
        placement = ticket_of(source).put_into(model)
    assert [name for name, _ in placement.refused] == ["0.weight"]


def test_a_linear_stem_for_another_size_is_refused_with_a_hint() -> None:
    source = nn.Sequential(nn.Linear(784, 6), nn.Linear(6, 5), nn.Linear(5, 2))
    model = nn.Sequential(nn.Linear(1024, 6), nn.Linear(6, 5), nn.Linear(5, 2))
    with pytest.warns(UserWarning, match="refused"):
        placement = ticket_of(source).put_into(model)
    reason = dict(placement.refused)["0.weight"]
    assert "(6, 784)" in reason
    assert "(6, 1024)" in reason
    assert "size" in reason
    assert "channels" in reason


def test_behind_a_refused_layer_the_inputs_are_not_blamed() -> None:
    source = nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2))
    model = nn.Sequential(nn.Linear(7, 8), nn.Linear(8, 5), nn.Linear(5, 5), nn.Linear(5, 2))
    with pytest.warns(UserWarning, match="2 of 3 masked tensors refused"):
        placement = ticket_of(source).put_into(model)
    assert dict(placement.refused)["1.weight"] == "shape (5, 6) in the ticket, (5, 8) in the model"


# -- what does not fit -----------------------------------------------------------------------------------------------
def test_tensors_of_only_one_side_are_named() -> None:
    source, model = network(norm=True), network(norm=False)
    model.add_module("extra", nn.BatchNorm1d(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing prunable is refused, so nothing is warned of
        placement = ticket_of(source).put_into(model)
    refused, fresh = dict(placement.refused), dict(placement.fresh)
    assert refused["norm.weight"] == "not in the model"
    assert fresh["extra.weight"] == "left as it was: not in the ticket"


def test_a_mask_needs_a_parameter() -> None:
    model = network()
    weight = model.conv.weight.detach().clone()
    del model.conv.weight
    model.conv.register_buffer("weight", weight)
    with pytest.warns(UserWarning, match=r"conv\.weight: a buffer in the model"):
        placement = ticket_of(network(seed=1)).put_into(model)
    assert list(placement.masks) == ["stem.weight"]
    assert torch.equal(model.conv.weight, weight)


def test_nothing_is_changed_when_nothing_fits() -> None:
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(9, 9, 3), flat=nn.Flatten(), fc=nn.Linear(9, 3)))
    before = state(model)
    with pytest.raises(InputError, match=r"stem\.weight: not in the model"):
        ticket_of(network()).put_into(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("word", "near"), [({"head": "kept"}, "keep"), ({"stem": "adapted"}, "adapt")])
def test_unknown_words_get_the_nearest(word: dict[str, str], near: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{near}'"):
        ticket_of(network()).put_into(network(), **word)


def test_a_model_without_a_head_says_how_to_name_it() -> None:
    model = nn.Sequential(OrderedDict(stem=nn.Conv2d(1, 4, 3)))
    with pytest.raises(InputError, match="model_head="):
        ticket_of(network()).put_into(model)
    with pytest.raises(InputError, match="did you mean 'fc'"):
        ticket_of(network()).put_into(network(), model_head="fcc")


def test_a_lazy_model_is_refused() -> None:
    model = nn.Sequential(OrderedDict(stem=nn.LazyConv2d(4, 3), fc=nn.Linear(4, 3)))
    with pytest.raises(InputError, match="no shape yet"):
        ticket_of(network()).put_into(model)


def test_the_mask_decides_over_a_second_name_of_the_same_tensor() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4, bias=False)
            self.b = self.a
            self.fc = nn.Linear(4, 2)

    model = Twice()
    ticket = ticket_of(model)
    assert "b.weight" in ticket.rest
    ticket.put_into(model)
    assert torch.equal(model.a.weight, ticket.weights["a.weight"])


def test_the_placement_reads_as_a_table() -> None:
    with pytest.warns(UserWarning, match="refused"):
        text = str(ticket_of(network(1)).put_into(network(3), stem="strict"))
    assert "refused  stem.weight" in text
    assert "matched  conv.weight" in text
    assert "fresh    fc.weight" in text
    assert "head drawn anew, seed 0" in text


# -- what is counted -------------------------------------------------------------------------------------------------
def test_the_density_counts_prunable_weights_without_a_mask() -> None:
    """Of the whole model: what has no mask is dense."""
    ticket = ticket_of(network(1), density=0.25)
    whole = ticket.put_into(network(1))
    assert (whole.dense, whole.density) == (0, ticket.density)
    fresh = ticket.put_into(network(3), stem="fresh")
    kept, conv, stem = int(ticket.masks["conv.weight"].sum()), 4 * 5 * 9, 3 * 4 * 9
    assert (fresh.dense, fresh.density) == (stem, (kept + stem) / (conv + stem))
    assert "(108 of its prunable weights have no mask)" in str(fresh)
    with pytest.warns(UserWarning, match="refused"):
        assert ticket.put_into(network(3), stem="strict").density == fresh.density
    *body, head = network(1).named_children()
    more = ticket.put_into(nn.Sequential(OrderedDict([*body, ("more", nn.Linear(5, 5)), head])))
    assert (more.dense, more.density) == (25, (ticket.masks.kept + 25) / (ticket.masks.total + 25))


def test_a_pruned_head_drawn_anew_is_dense_again() -> None:
    ticket = ticket_of(network(), prune_head=True)
    assert ticket.put_into(network(), head="copied").density == ticket.density
    fresh = ticket.put_into(network(), head="fresh")
    assert (fresh.dense, fresh.masks.total) == (15, ticket.masks.total - 15)


def test_what_a_ticket_leaves_out_on_purpose_is_not_counted() -> None:
    source = network()
    masks = Masks({"conv.weight": torch.rand(5, 4, 3, 3) < 0.5})
    state = source.state_dict()
    rest = {name: tensor for name, tensor in state.items() if name not in masks}
    ticket = Ticket(masks, {"conv.weight": state["conv.weight"]}, rest, "fc")
    placement = ticket.put_into(network())
    assert (placement.dense, placement.density) == (0, ticket.density)


@pytest.mark.parametrize("name", ["classifier", "last"])
def test_a_head_of_another_name_is_not_guessed(name: str) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts = dict(network().named_children())
            self.stem, self.norm, self.conv = parts["stem"], parts["norm"], parts["conv"]
            self.classifier, self.last = nn.Linear(5, 3), nn.Linear(5, 5)

    with pytest.raises(InputError, match="more than one layer could be it; expected its name, as model_head="):
        ticket_of(network()).put_into(Branching())
    model = Branching()
    placement = ticket_of(network()).put_into(model, model_head=name)
    assert f"{name}.weight" in dict(placement.fresh)
