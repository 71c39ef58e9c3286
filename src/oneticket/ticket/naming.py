"""The names of a ticket's tensors in a model that is wrapped otherwise than the ticket's was."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.ticket.format import Contents

_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name


def wrapping(names: Iterable[str]) -> str:
    """The prefix that wrappers of PyTorch have put before all names."""
    every = list(names)
    prefix = ""
    while step := next((w for w in _WRAPPERS if every and all(n.startswith(prefix + w) for n in every)), ""):
        prefix += step
    return prefix


def asked(prefix: str | None, rename: Mapping[str, str] | None, where: str) -> dict[str, str]:
    """The arguments ``prefix`` and ``rename`` as one mapping of beginnings of names; InputError for both."""
    if prefix is not None and rename is not None:
        raise InputError("prefix and rename are given", where=where, expected="one of them")
    if rename is not None:
        if not isinstance(rename, Mapping) or not all(isinstance(w, str) for pair in rename.items() for w in pair):
            raise InputError(
                f"rename = {rename!r}", where=where, expected="beginnings of names, old to new, such as {'m.': ''}"
            )
        return dict(rename)
    return {} if prefix is None else {"": prefix}


def renamed(contents: Contents, beginnings: Mapping[str, str], where: str) -> Contents:
    """``contents`` under other names; of several beginnings that fit a name, the longest decides.

    Raises InputError for a beginning that no name of the ticket has, and where two names become one.
    """
    if not beginnings:
        return contents
    names = [*contents.masks, *contents.rest]
    for old in beginnings:
        if not any(name.startswith(old) for name in names):
            raise InputError(
                f"no tensor of the ticket is called '{old}…'", where=where, expected=f"the beginning of {names[0]} …"
            )
    new = {name: _begun(name, beginnings) for name in names}
    if len(set(new.values())) < len(new):
        raise InputError("two tensors of the ticket get one name", where=where, expected="names that stay apart")
    return Contents(
        Masks({new[name]: mask for name, mask in contents.masks.items()}),
        {new[name]: value for name, value in contents.weights.items()},
        {new[name]: value for name, value in contents.rest.items()},
        _begun(contents.head, beginnings) if contents.head else "",
        contents.provenance,
    )


def found(masks: Masks, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The one wrapper around ticket or model that makes all names of the masks names of the model's tensors.

    Returns {} where a name fits as it is, and where no wrapper fits or more than one does.
    """
    own = {name.removeprefix(wrapping(masks)): mask for name, mask in masks.items()}
    theirs = {name.removeprefix(wrapping(tensors)): tensor for name, tensor in tensors.items()}
    if own.keys() & theirs.keys():
        return {}
    pairs = [*_candidates(own, theirs), *((old, new) for new, old in _candidates(theirs, own))]
    fitting = [(old, new) for old, new in pairs if _fits(own, theirs, old, new)]
    if len(fitting) != 1:
        return {}
    old, new = fitting[0]
    return {wrapping(masks) + old: wrapping(tensors) + new}


def masks_in(contents: Contents, tensors: Mapping[str, Tensor]) -> Masks:
    """The masks of those of the ticket's tensors that are among ``tensors``, by the names that they have there."""
    masks = renamed(contents, found(contents.masks, tensors), "Ticket.apply_masks").masks
    return Masks({n: mask for n, mask in masks.items() if n in tensors and tensors[n].shape == mask.shape})


def _candidates(short: Collection[str], long: Collection[str]) -> list[tuple[str, str]]:
    """Prefixes of the names in ``long`` after which the first name in ``short`` follows, as pairs ("", prefix)."""
    first = next(iter(short), "")
    return [("", name.removesuffix(first)) for name in long if name.endswith(f".{first}")]


def _fits(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], old: str, new: str) -> bool:
    if not all(name.startswith(old) for name in own):
        return False
    there = [(theirs.get(new + name.removeprefix(old)), mask) for name, mask in own.items()]
    return all(tensor is not None and tensor.dim() == mask.dim() for tensor, mask in there)


def _begun(name: str, beginnings: Mapping[str, str]) -> str:
    old = max((old for old in beginnings if name.startswith(old)), key=len, default=None)
    return name if old is None else beginnings[old] + name.removeprefix(old)
