"""A ticket of the whole VGG19 with 2 % of its weights, from 9,000 images of CIFAR-10: twenty minutes on two cores.

    python examples/vgg19_ticket.py ../shared/data/cifar10_jpeg vgg19.safetensors

Too little training for accuracy; enough that the densities of the layers are those of trained weights, which is what
`oneticket bench --only vgg19-sparse --ticket vgg19.safetensors` needs.
"""

import sys
from pathlib import Path

import oneticket as ot
from oneticket.data import Augmentation, DataSpec, default_cache, open_data, resolve
from oneticket.models import ModelSpec, build

folder, out = sys.argv[1:]
spec = {"cifar": DataSpec(path=str(Path(folder).resolve()), per_class=1000)}
images = open_data(resolve(spec, "cifar", folder=Path(), cache=default_cache()), cache=default_cache()).train
recipe = ot.Recipe.sgd(
    epochs=4, lr=0.05, weight_decay=5e-4, warmup="1ep", precision="bf16", augment=Augmentation(flip=True, crop=4)
)


def tell(done: int, of: int, _: object) -> None:
    print(f"round {done + 1} of {of}", flush=True)


network = build(ModelSpec(name="vgg19"), input_shape=(3, 32, 32), classes=10, seed=0)
ticket = ot.find_ticket(network, images, recipe=recipe, density=0.02, rounds=3, on_round=tell)
ticket.save(out)
for name, mask in ticket.masks.items():
    print(f"{name:25} {float(mask.float().mean()):8.3%}")
