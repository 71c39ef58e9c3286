"""Tables for notebooks: what they show, escaped, without scripts, and the same for every value that has one."""

from __future__ import annotations

from html.parser import HTMLParser

import torch
from torch import nn

from oneticket.comparing import Comparison
from oneticket.masks import Masks
from oneticket.showing import MOST_ROWS, layers, table
from oneticket.ticket import Provenance, Ticket

EVIL = "<script>alert('0.weight')</script>"


class _Read(HTMLParser):
    """Tags, their attributes and the text of a piece of HTML; every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def read(text: str) -> _Read:
    found = _Read(text)
    assert found.attributes <= {"style", "aria-hidden"}
    assert set(found.tags) <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "span"}
    for colour in ("color:black", "color:#", "background:white", "background:#fff"):  # the page's own, dark or light
        assert f" {colour}" not in text
        assert f";{colour}" not in text.replace("background:#3a8fc8", "")
    return found


def masks() -> Masks:
    return Masks({EVIL: torch.tensor([[True, False], [False, False]]), "b": torch.ones(3, dtype=torch.bool)})


def test_masks_show_a_bar_of_density_for_each_layer() -> None:
    html = masks()._repr_html_()
    found = read(html)
    assert EVIL in found.text  # as text
    assert "<script" not in html
    assert "width:25.0%" in html
    assert "color:inherit" in html  # in old pages tables are black otherwise, on black too
    assert "width:100.0%" in html
    assert "25 %" in found.text
    assert "4 of 7" in found.text


def test_a_ticket_says_where_it_comes_from() -> None:
    weights = {name: torch.ones(mask.shape) for name, mask in masks().items()}
    html = Ticket(masks(), weights, provenance=Provenance(model="<b>Net", seed=3))._repr_html_()
    assert "<b>Net" in read(html).text
    assert "seed 3" in read(html).text


def test_a_placement_says_what_happened_to_each_tensor() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    given = {"0.weight": torch.rand(6, 4) < 0.5}
    ticket = Ticket(Masks(given), {"0.weight": torch.ones(6, 4)}, head="2")
    found = read(ticket.put_into(model)._repr_html_())
    for word in ("matched", "fresh", "0.weight", "2.weight", "equal shape", "density"):
        assert word in found.text


def test_the_difference_of_tickets_and_a_comparison_have_tables() -> None:
    weights = {name: torch.ones(mask.shape) for name, mask in masks().items()}
    ticket = Ticket(masks(), weights)
    assert "overlap" in read(ticket.diff(Ticket(masks(), weights, head="b"))._repr_html_()).text
    row = {
        "experiment": "e", "model": "m", "source": "d", "source_recipe": "r", "target": "d", "target_recipe": "r",
        "rescale": "none", "density_asked": 0.2, "density": 0.2, "test_loss": 0.1, "cell": "c", "budget": "recipe",
    }  # fmt: skip
    columns = ("effective_density", "round", "val_accuracy", "best_epoch", "steps_to_converge", "search_trainings")
    columns += ("train_flops", "masked_flops", "seconds", "lr", "own_steps", "total_steps", "total_samples")
    empty = dict.fromkeys((*columns, "total_masked_flops", "test_images"))
    figures = {("winning", 0): 0.9, ("winning", 1): 0.91, ("random", 0): 0.8, ("random", 1): 0.82}
    rows = [empty | row | {"arm": arm, "seed": seed, "test_accuracy": value} for (arm, seed), value in figures.items()]
    found = read(Comparison(rows)._repr_html_())
    assert "winning beats random" in found.text or "not decided whether winning" in found.text
    assert "accuracy %" in found.text


def test_a_long_table_says_how_much_it_leaves_out() -> None:
    found = read(layers("t", [(f"l{n}", 1, 2) for n in range(MOST_ROWS + 5)]))
    assert found.tags.count("tr") == MOST_ROWS + 1
    assert "… and 5 more" in found.text
    assert read(table("t", ("a",), [])).tags.count("tr") == 1
