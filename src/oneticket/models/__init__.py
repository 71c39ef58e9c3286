"""Networks: the built-in ones by name, and anyone's by import path."""

from oneticket.models.base import Factory, ModelSpec, build, code_digest, complete, find_factory, initialise, model
from oneticket.models.conv import conv_2, conv_4, conv_6
from oneticket.models.lenet import lenet_300_100
from oneticket.models.resnet import resnet18, resnet20, resnet32, resnet50, resnet56
from oneticket.models.vgg import vgg11, vgg16, vgg19

__all__ = [
    "Factory",
    "ModelSpec",
    "build",
    "code_digest",
    "complete",
    "conv_2",
    "conv_4",
    "conv_6",
    "find_factory",
    "initialise",
    "lenet_300_100",
    "model",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet50",
    "resnet56",
    "vgg11",
    "vgg16",
    "vgg19",
]
