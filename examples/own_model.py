"""A network and a training loop of your own: find a ticket, save it, put it into a fresh network, keep its mask.

    python examples/own_model.py

Needs nothing but oneticket; takes a few seconds.
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import oneticket as ot


class Reader(nn.Module):
    """Reads an 8×8 digit row by row with a recurrent network."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(8, 64, batch_first=True)
        self.classify = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        states, _ = self.rows(images)
        return self.classify(states[:, -1])


digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
train_set, test_set = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])

# 1. Find a ticket: 10 % of the weights, rewound to the end of the first epoch.
torch.manual_seed(0)
torch.set_num_threads(1)  # a small network is fastest on one core
recipe = ot.Recipe.adam(lr=0.01, epochs=8, batch_size=64)
ticket = ot.find_ticket(Reader(), train_set, recipe=recipe, density=0.10, rewind="1ep", seed=0, prune=0.5)
place = Path(tempfile.mkdtemp()) / "digits.safetensors"
ticket.save(place)
print(f"{ticket} in {place.stat().st_size} bytes")

# 2. Put it into another network: the head is drawn anew, everything else comes from the ticket.
ticket = ot.Ticket.load(place)
model = Reader()
print(ticket.put_into(model, head="fresh", seed=1))

# 3. Your own loop, any optimiser: masked weights stay exactly zero.
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
with ticket.kept(optimizer):
    for _epoch in range(10):
        for batch in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train_set[0][batch]), train_set[1][batch]).backward()
            optimizer.step()

with torch.inference_mode():
    accuracy = (model(test_set[0]).argmax(1) == test_set[1]).float().mean()
kept = sum(int((weight != 0).sum()) for name, weight in model.named_parameters() if name in ticket.masks)
print(f"test accuracy {100 * accuracy:.1f} % with {kept} of {ticket.masks.total} weights")
assert kept <= ticket.masks.kept
