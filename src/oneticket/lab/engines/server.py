"""What the server loads, once, that workers fork from: everything a worker needs before it looks at its cell."""

from __future__ import annotations

import gc

import torch
import torch._dynamo  # torch's optimisers load it at their first step: a second and a half

from oneticket.lab.engines import worker as worker

torch.set_num_threads(1)  # a pool of threads would not survive the fork

# Workers share these pages until they write to them, which a garbage collector does to everything it looks at.
gc.collect()
gc.freeze()
