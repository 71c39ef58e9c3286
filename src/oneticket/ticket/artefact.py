"""The ticket: masks, rewound weights, everything else at the rewind point, and where all of it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oneticket.errors import DamagedTicket, InputError
from oneticket.masks import Masks
from oneticket.showing import layers
from oneticket.ticket import format as ticket_file
from oneticket.ticket.carrying import keep, masks_on, remember
from oneticket.ticket.difference import Difference, difference
from oneticket.ticket.format import Contents, Verification
from oneticket.ticket.keeping import KeptTicket, caller
from oneticket.ticket.naming import masks_in
from oneticket.ticket.placement import Placement, place
from oneticket.ticket.provenance import Provenance
from oneticket.ticket.reading import read_model
from oneticket.ticket.sharding import zero_masked
from oneticket.words import Head, Masked, Stem


class Ticket:
    """A winning ticket (m, W_k), as a value.

    Tensors are copied to the CPU.

    Parameters
    ----------
    masks : Masks
        Which weights of the prunable tensors are kept.
    weights : Mapping[str, Tensor]
        The prunable tensors at the rewind point W_k, of full shape; masked weights become 0.0.
    rest : Mapping[str, Tensor], optional
        Every other parameter and buffer at W_k: biases, norm parameters and statistics, the head.
    head : str, default ""
        Name of the classifier layer; "" without one.
    provenance : Provenance, optional
        Where the ticket comes from.

    Raises
    ------
    InputError
        When names or shapes disagree, or weights are not finite.

    Examples
    --------
    >>> ticket = Ticket(Masks({"fc": torch.tensor([True, False])}), {"fc": torch.tensor([2.0, 3.0])})
    >>> ticket.weights["fc"], ticket.density
    (tensor([2., 0.]), 0.5)
    """

    def __init__(
        self,
        masks: Masks,
        weights: Mapping[str, Tensor],
        rest: Mapping[str, Tensor] | None = None,
        head: str = "",
        provenance: Provenance | None = None,
    ) -> None:
        rest = rest or {}
        _check(masks, weights, rest)
        self.masks = Masks({name: _own(mask) for name, mask in masks.items()})
        self.weights = {name: _own(weights[name]).masked_fill_(~mask, 0) for name, mask in self.masks.items()}
        self.rest = {name: _own(rest[name]) for name in sorted(rest)}
        self.head = head
        self.provenance = (provenance or Provenance()).normalised()
        for name, weight in self.weights.items():
            if not bool(weight.isfinite().all()):
                raise InputError(f"kept weights of '{name}' are not finite", expected="finite weights")

    @property
    def density(self) -> float:
        """ρ, the fraction of the prunable weights that is kept."""
        return self.masks.density

    def __repr__(self) -> str:
        model, asked = self.provenance.model or "unnamed model", self.provenance.density_asked
        met = f"{self.density:.4g}"
        if asked is not None and f"{asked:.4g}" != met:
            met += f" (asked {asked:.4g})"
        return f"Ticket({model}, density {met}, {self.masks.kept} of {self.masks.total} weights)"

    def _repr_html_(self) -> str:
        known = self.provenance
        facts = {"head": self.head, "rewound to": known.rewind, "criterion": known.criterion, "seed": known.seed}
        told = ", ".join(f"{name} {value}" for name, value in facts.items() if value not in ("", None))
        return layers(repr(self), [(row.name, row.kept, row.total) for row in self.masks.table()], [told])

    def __eq__(self, other: object) -> bool:
        """Whether the two are equal to the bit, order of the tensors included: equal tickets have equal files."""
        if not isinstance(other, Ticket):
            return NotImplemented
        return list(self.masks) == list(other.masks) and difference(self._contents(), other._contents()).empty

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Ticket], Contents]:
        return type(self), self._contents()

    def _contents(self) -> Contents:
        return Contents(self.masks, self.weights, self.rest, self.head, self.provenance)

    @classmethod
    def from_model(cls, model: nn.Module, *, head: str | None = None) -> Ticket:
        """The ticket that a network pruned elsewhere carries: its masks, and its weights as they are.

        Masks are those of ``torch.nn.utils.prune`` where a layer has them, else True where a weight is not exactly
        zero; prunable weights without a zero are kept whole. ``provenance.notes["masks"]`` says which it was.

        Parameters
        ----------
        model : nn.Module
            The network; it is not changed.
        head : str, optional
            Name of its classifier; by default the only layer that it can be, "" where that is in doubt.

        Raises
        ------
        InputError
            For a network without any mask or zero.
        """
        return cls(*read_model(model, head))

    # -- the file ----------------------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ticket to ``path``, whole or not at all; equal tickets give equal bytes.

        Raises
        ------
        InputError
            When the folder does not exist or cannot be written.
        """
        ticket_file.write(path, ticket_file.encode(self._contents()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ticket:
        """Read a ticket file. Nothing in the file is executed, and the checksum is always compared.

        Raises
        ------
        ForeignFile
            When the file is not a ticket.
        DamagedTicket
            When its content does not agree with its checksum.
        TooNewTicket
            When a later version of oneticket wrote it.
        TicketError
            When the file does not exist or cannot be read.
        """
        return cls._read(path)[0]

    @classmethod
    def verify(cls, path: str | os.PathLike[str]) -> Verification:
        """Check a ticket file and describe it; raises as :meth:`load` does for a file that is not sound."""
        return cls._read(path)[1]

    @classmethod
    def _read(cls, path: str | os.PathLike[str]) -> tuple[Ticket, Verification]:
        contents, verification = ticket_file.read(path)
        try:
            return cls(*contents), verification
        except InputError as error:
            raise DamagedTicket(f"the ticket is damaged: {error}", where=verification.path) from error

    # -- in a model --------------------------------------------------------------------------------------------------
    def put_into(
        self,
        model: nn.Module,
        *,
        head: Head = "fresh",
        seed: int = 0,
        stem: Stem = "adapt",
        model_head: str | None = None,
        prefix: str | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> Placement:
        """Set the weights of ``model`` to this ticket, in place, wherever names and shapes fit.

        Warns when a prunable tensor is refused.

        Parameters
        ----------
        model : nn.Module
            The model; its weights are changed in place.
        head : {"fresh", "keep", "copied"}
            "fresh" draws the model's head anew from ``seed``; "keep" leaves it as it is; "copied" takes the ticket's
            where its shapes agree and draws it anew otherwise.
        seed : int, default 0
            For drawing the head.
        stem : {"adapt", "fresh", "strict"}
            What happens to the first convolution when its input channels differ, 1 against 3: "adapt" repeats or sums
            the weights over the channels; "fresh" leaves it as it is, unmasked; "strict" refuses it.
        model_head : str, optional
            Name of the model's classifier; by default the ticket's head if the model has that layer, else found.
        prefix : str, optional
            What the model puts before the ticket's names, such as ``"backbone."``.
        rename : Mapping[str, str], optional
            Beginnings of the ticket's names, and what they are in the model, such as ``{"m.": ""}``. Without both, one
            wrapper around ticket or model is found and said, where no name fits as it is.

        Returns
        -------
        Placement
            The tensors that matched, are fresh and were refused, with reasons.

        Raises
        ------
        InputError
            Before anything is changed, when no prunable tensor fits.
        """
        placement = place(
            self._contents(),
            model,
            head=head,
            seed=seed,
            stem=stem,
            model_head=model_head,
            prefix=prefix,
            rename=rename,
        )
        remember(self, model, placement.masks)
        return placement

    def apply_masks(self, model: nn.Module | Mapping[str, Tensor]) -> int:
        """Set the masked weights of ``model`` to exactly 0.0, once and in place; kept weights stay as they are.

        For weights that no optimiser wrote: LoRA merged into its base, an average (EMA), a dense checkpoint.

        Parameters
        ----------
        model : nn.Module or Mapping[str, Tensor]
            The model, or its ``state_dict``.

        Returns
        -------
        int
            How many were not zero before; under FSDP2, of those that this process holds.

        Raises
        ------
        InputError
            When no masked tensor of the ticket is in the model.
        """
        if isinstance(model, nn.Module):
            masks = masks_on(self, self._contents(), model)
            tensors: Mapping[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        else:
            tensors, masks = model, masks_in(self._contents(), model)
        if missing := [name for name in masks if name not in tensors]:
            raise InputError(
                f"the model no longer has {missing[0]}, which the ticket masks",
                where="Ticket.apply_masks",
                expected="the names it had when the ticket was put in; with LoRA, after merge_and_unload()",
            )
        if not masks:
            raise InputError(
                "no masked tensor of the ticket is in the model", where="Ticket.apply_masks", expected="equal names"
            )
        return zero_masked(tensors, masks)

    def kept(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module | None = None,
        *,
        loaded_later: bool = False,
        masked: Masked = "zero",
    ) -> KeptTicket:
        """A context in which every masked weight is exactly 0.0 after each step of an optimiser.

        It holds for all parameters of the models that carry the ticket and of which ``optimizer`` has any, also for
        those that other optimisers step. It warns when it is dropped without having been entered.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
            An optimiser over parameters of the models that this ticket was put into; also as Accelerate and Lightning
            hand it out.
        model : nn.Module, optional
            A model that carries the ticket but did not get it from this object: a copy, or one loaded from a
            checkpoint.
        loaded_later : bool, default False
            Whether ``model`` need not carry the ticket yet, since a checkpoint that does is loaded inside the context.
            It carries the masks from the start, and again as soon as weights are loaded.
        masked : {"zero", "frozen"}
            "frozen" holds the masked weights of ``model``, which must then be given, at their present values instead of
            0.0, or with ``loaded_later`` at those that are loaded: the masks say which weights may change.

        Raises
        ------
        InputError
            When the optimiser has no parameter of a model that carries the ticket, when another ticket was put into
            the model since, and when masked weights are not zero.
        """
        return keep(self, self._contents(), optimizer, model, caller(), loaded_later=loaded_later, masked=masked)

    # -- beside another ----------------------------------------------------------------------------------------------
    def diff(self, other: Ticket) -> Difference:
        """Where this ticket and ``other`` differ: masks and weights layer by layer, the rest, the provenance."""
        return difference(self._contents(), other._contents())


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", copy=True, memory_format=torch.contiguous_format)


def _check(masks: Masks, weights: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> None:
    if not masks:
        raise InputError("the ticket has no masks", expected="the mask of at least one tensor")
    for name in [*masks, *(n for n in weights if n not in masks)]:
        if name not in weights or name not in masks:
            raise InputError(f"tensor '{name}' is in only one of masks and weights", expected="the same names in both")
        if masks[name].shape != weights[name].shape:
            shapes = f"{tuple(masks[name].shape)} and {tuple(weights[name].shape)}"
            raise InputError(f"mask and weights of '{name}' have the shapes {shapes}", expected="equal shapes")
        if not weights[name].is_floating_point():
            raise InputError(f"weights of '{name}' have dtype {weights[name].dtype}", expected="floating point")
        if name in rest:
            raise InputError(f"tensor '{name}' is among both the weights and the rest", expected="only one of them")
