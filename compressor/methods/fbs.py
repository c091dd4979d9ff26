"""Feature Boosting and Suppression: which channels are computed depends on the input.

Gao, Zhao, Dudziak, Mullins, Xu: "Dynamic Channel Pruning: Feature Boosting and Suppression", ICLR 2019,
arXiv 1810.05331. Every convolution with a batch norm gets a saliency predictor; per sample, only the
ceil(density * channels) most salient channels of each layer are computed, scaled by their saliency
(`compressor.methods.fbs_layer` has the formulas). Training starts at density 1 and lowers it in steps.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.graph.pairs import conv_bn_pairs
from compressor.methods.base import Method, ParameterGroup
from compressor.methods.fbs_folded import FBSFolded
from compressor.methods.fbs_init import FBSOptions
from compressor.methods.fbs_layer import FBSConv2d

__all__ = ["FBS"]

_log = logging.getLogger(__name__)


@dataclass
class FBS(Method):
    """Hyper-parameters of FBS; the defaults are the paper's where it is known to state them.

    Attributes:
        density: fraction of each layer's channels that is computed, in (0, 1]; the same for every layer.
        density_step: how far density falls per stage of the schedule (paper: steps of 10 %).
        step_epochs: epochs at each density on the way. 1 sufficed in a CIFAR-10 trial (90.4 % -> 90.3 % at
            0.5).
        final_epochs: epochs at the final density, 11 in the same trial; the released scripts train for 150.
        l1: factor of the saliencies' L1 norm in the loss, mean over the batch, sum over layers (paper: 1e-8).
        l1_of: `all` saliencies (paper) or `winners` only (released code).
        form: `paper` p*(nrm(conv) + beta), or `released` p*nrm(conv) + a*beta (the released code's default
            flags).
        init: `absorb` starts as the trained network; `paper` starts predictors at 1 and shifts at 0.1.
        saliency: `relu` everywhere (paper), or `inherit`: none on layers without activation (released code),
            whose channels then compete by signed saliency.
        subsample: `l1` mean |x| (paper) or `mean` (released code); equal on inputs ≥ 0.
        normalize: saliencies of each sample scaled to mean 1. Not in the paper; against unstable training.
        winner_block: neighbouring channels that win or lose together, by their mean saliency; kernels then skip whole
            vectors of weights (paper: 1). Winners are rounded up to whole blocks.
        block_by: `activity` puts channels that fire together into a block, once before training; `place` takes them
            as they lie.
        seed: of the predictors' start weights.
    """

    density: float = 0.5
    density_step: float = 0.1
    step_epochs: int = 1
    final_epochs: int = 11
    l1: float = 1e-8
    l1_of: Literal["all", "winners"] = "all"
    form: Literal["paper", "released"] = "paper"
    init: Literal["absorb", "paper"] = "absorb"
    saliency: Literal["relu", "inherit"] = "relu"
    subsample: Literal["l1", "mean"] = "l1"
    normalize: bool = False
    winner_block: int = 1
    block_by: Literal["activity", "place"] = "activity"
    seed: int = 0

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Returns a copy with convolution + batch norm replaced by `FBSConv2d` + identity, at `density`.

        Convolutions that cannot be replaced stay dense; `ineligible` says why.

        Raises:
            MethodError: nothing can be replaced, there are FBS layers already, or a setting is not allowed.
            GraphError: the network cannot be exported.
        """
        self._check()
        if layers(model):
            raise MethodError("the network has FBS layers already; change their density instead of attaching again")
        pairs, reasons = conv_bn_pairs(model, example)
        if not pairs:
            found = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "it has no Conv2d"
            raise MethodError(f"no convolution of {type(model).__name__} can become an FBS layer ({found})")
        options = self._options()
        generator = torch.Generator().manual_seed(self.seed)
        model = copy.deepcopy(model)
        for pair in pairs:
            conv, bn = model.get_submodule(pair.conv), model.get_submodule(pair.bn)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(bn, nn.BatchNorm2d)
            layer = FBSConv2d(
                conv,
                bn,
                options=options,
                density=self.density,
                saliency_slope=1.0 if self.saliency == "inherit" and not pair.activated else 0.0,
                nonnegative_input=pair.nonnegative_input,
                generator=generator,
            )
            _replace(model, pair.conv, layer.train(conv.training))
            _replace(model, pair.bn, nn.Identity())
        for name, reason in reasons.items():
            _log.info("%s stays dense: %s", name, reason)
        return model

    def ineligible(self, model: nn.Module, example: Tensor) -> dict[str, str]:
        """Convolutions of a dense network that FBS would leave dense, with the reason."""
        return conv_bn_pairs(model, example)[1]

    def parameters(self, model: nn.Module) -> list[ParameterGroup]:
        """Kernels and linear weights with the loop's weight decay; predictors, shifts and vectors without."""
        predictors = {id(layer.saliency_weight) for layer in layers(model).values()}
        decayed: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for parameter in (p for p in model.parameters() if p.requires_grad):
            (free if parameter.ndim < 2 or id(parameter) in predictors else decayed).append(parameter)
        return [{"params": decayed}, {"params": free, "weight_decay": 0.0}]

    def penalty(self, model: nn.Module) -> Tensor | None:
        """`l1` * sum over layers of E_x ||s||_1, from the last training pass."""
        norms = [layer.saliency_l1 for layer in layers(model).values() if layer.saliency_l1 is not None]
        if self.l1 == 0.0 or not norms:
            return None
        return self.l1 * torch.stack(norms).sum()

    def detach(self, model: nn.Module) -> dict[str, FBSFolded]:
        """Each FBS layer with its batch norm folded in, by module name, at its present density."""
        return {name: layer.fold() for name, layer in layers(model).items()}

    def schedule(self, epochs: int | None = None, *, start: float | None = None) -> list[float]:
        """The density of each epoch: 1.0 down to `density` in steps, most epochs at the end.

        Args:
            epochs: total; None takes `step_epochs` and `final_epochs`. With fewer epochs than steps some are skipped.
            start: density that the network was trained at already; the steps go on below it.

        >>> FBS(density=0.7).schedule(6)
        [1.0, 0.9, 0.8, 0.7, 0.7, 0.7]
        >>> FBS(density=0.5).schedule(2)
        [0.8, 0.5]
        >>> FBS(density=0.5).schedule(3, start=0.7)
        [0.6, 0.5, 0.5]
        """
        self._check()
        stages = [1.0]
        while stages[-1] - self.density_step > self.density + 1e-9:
            stages.append(round(stages[-1] - self.density_step, 6))
        below = 2.0 if start is None else start - 1e-9
        stages = [density for density in stages if self.density < density < below]
        way = [density for density in stages for _ in range(self.step_epochs)]
        if epochs is None:
            return way + [self.density] * max(1, self.final_epochs)
        if epochs > len(way):
            return way + [self.density] * (epochs - len(way))
        full = [*way, self.density]
        return [full[(index + 1) * len(full) // epochs - 1] for index in range(epochs)]

    def _options(self) -> FBSOptions:
        return FBSOptions(self.form, self.init, self.subsample, self.normalize, self.l1_of, self.winner_block)

    def _check(self) -> None:
        allowed = {"density": (0.0, 1.0), "density_step": (0.0, 1.0)}
        problems = [
            f"{name}={getattr(self, name)} is not in (0, 1]"
            for name, (low, high) in allowed.items()
            if not low < getattr(self, name) <= high
        ]
        problems += [f"{name}={getattr(self, name)} is below 0" for name in ("l1",) if getattr(self, name) < 0]
        problems += [f"{name}={getattr(self, name)} is below 1" for name in ("step_epochs",) if getattr(self, name) < 1]
        if self.saliency not in ("relu", "inherit"):
            problems.append(f"saliency={self.saliency!r}; choose from: inherit, relu")
        if self.block_by not in ("activity", "place"):
            problems.append(f"block_by={self.block_by!r}; choose from: activity, place")
        if self.normalize and self.saliency == "inherit":
            problems.append("normalize needs saliencies ≥ 0, so saliency='relu'")
        try:
            self._options()
        except ValueError as error:
            problems.append(str(error))
        if problems:
            raise MethodError(f"fbs: {'; '.join(problems)}")


def layers(model: nn.Module) -> dict[str, FBSConv2d]:
    """The FBS layers of a network by module name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FBSConv2d)}


def set_density(model: nn.Module, density: float) -> None:
    """Changes `model`: every FBS layer computes this fraction of its channels from now on."""
    if not 0.0 < density <= 1.0:
        raise MethodError(f"density {density} is not in (0, 1]")
    for layer in layers(model).values():
        layer.density = density


@contextmanager
def at_density(model: nn.Module, density: float) -> Iterator[None]:
    """Changes `model` for a block: its FBS layers compute this fraction, and then their own again."""
    before = {layer: layer.density for layer in layers(model).values()}
    set_density(model, density)
    try:
        yield
    finally:
        for layer, own in before.items():
            layer.density = own


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)
