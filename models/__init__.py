"""Networks by name: the project's own, torchvision's and a user's file.

    names()                                   ['cifarnet', 'digitsnet', ...]
    build("resnet20", num_classes=100)        one of the project's own
    build("torchvision:resnet18")             any torchvision classifier, untrained
    build("my_nets.py:small", width=16)       a function in a user's file
    input_size("cifarnet")                    (3, 32, 32)

One family is one file in this folder; the functions in its `__all__` are its networks.
"""

from models._build import build, input_size, names
from models._errors import ModelError

__all__ = ["ModelError", "build", "input_size", "names"]
