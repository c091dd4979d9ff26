"""A checkpoint's fixed-point weights in the form that the exporter takes them."""

from torch import nn

from compressor import checkpoint
from compressor.methods.fbs import layers
from compressor.quantise import q_format, read
from exporters.fixed_point import FixedWeight

__all__ = ["fixed_weights"]


def fixed_weights(saved: checkpoint.CompressedCheckpoint | None, model: nn.Module) -> tuple[FixedWeight, ...]:
    """Returns what a checkpoint holds in fixed point; nothing for a float one or an untrained architecture.

    Args:
        saved: The checkpoint; None for an untrained architecture.
        model: The network rebuilt from it.
    """
    if saved is None or saved.fixed_point is None:
        return ()
    dynamic = layers(model)
    found = []
    for name, values in read(saved.fixed_point, saved.state).items():
        module, _, tensor = name.rpartition(".")
        # An FBS layer is one node, which is called after the layer and not after the convolution in it.
        outer = module.rpartition(".")[0]
        is_predictor = tensor == "saliency_weight" and module in dynamic
        found.append(
            FixedWeight(
                name=name,
                module=outer if outer in dynamic else module,
                levels=values.levels.numpy(),
                step=values.step.numpy(),
                axis=1 if is_predictor else 0,
                bits=values.bits,
                q_format=q_format(values),
            )
        )
    return tuple(found)
