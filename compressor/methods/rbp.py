"""RBP (reconstruction): noise on a layer's input channels, learned layer by layer, says which channels are redundant.

After Zhou, Zhang, Wang, Tian: "Accelerate CNN via Recursive Bayesian Pruning", ICCV 2019, arXiv 1812.00353. Of the
paper only the abstracts could be read: its noise law, prior and divergence could not be verified. What stands here
satisfies every sentence of them, and nothing more is claimed; `rbp_noise` and `rbp_prior` hold the two replaceable
pieces.

Channel c of a layer's input is multiplied by noise t_c with drop rate r_c (`rbp_noise`). The noises of successive
layers form a Markov chain; if layer l-1 is finished, its noise is a Dirac at its mean (0 for pruned channels), so that

    p(t_l | D) = ∫ p(t_l | t_(l-1), D) p(t_(l-1) | D) dt_(l-1)  ~  p(t_l | t_(l-1) = its mean, D)

which is: infer layer l in the network that is already pruned up to l-1. Its rates a_l, r = sigmoid(a), and all weights
minimise

    E_e[loss(net with t_l)] + (lam / N) * sum_c w_c KL_c           one e per example and channel, N training samples

The rates move by Adam, the weights as the loop moves them. Channels whose noise is tiny (r above the threshold) go;
1 - r of the others is folded into the weights that read them.
`compressor.pipeline.rbp` is the recursion, `rbp_places` says where noise sits, `rbp_steering` how lam meets a budget.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.graph import ChannelGraph, trace
from compressor.methods.base import Method, ParameterGroup, Scores
from compressor.methods.rbp_layer import ChannelNoise, add_noise, find_noise
from compressor.methods.rbp_noise import LEAST_RATE, BernoulliMoments
from compressor.methods.rbp_places import ChainStep, find_steps
from compressor.methods.rbp_prior import PRIORS, Prior, slope
from compressor.methods.rbp_steering import Pressure, Steering

__all__ = ["RBP"]

# Rates move at most this far in a stage; from a rate of 0.05 to the threshold of 0.9 it is 5.1.
_LOGIT_RANGE = 20.0
# Of Adam outside of a stage.
_LONE_RATE = 1e-2


@dataclass
class RBP(Method):
    """Hyper-parameters of RBP (reconstruction); the defaults are choices for CIFAR-10, the paper's were not found.

    Attributes:
        layer_epochs: of training with noise on one layer.
        layer_lr: constant learning rate of the weights in them.
        rate_lr: of the rates' logits, under Adam; 0 takes 20 / steps of the stage, 1e-2 at 5 epochs of CIFAR-10.
        rate_init: drop rate of every channel at the start of its layer.
        threshold: a channel whose rate is above it is redundant.
        prior: `dirac`, `same-law` or `bernoulli`, see `rbp_prior`.
        prior_variance: v of `dirac`.
        prior_rate: r0 of the others.
        lam: factor of the divergence; 1 is the evidence lower bound, 0 steers it so that the budget is met.
        ramp_fraction: part of each layer's steps in which it rises from 0.
        macs_weighted: channels of expensive layers are pulled harder, w_c is their share of the cost; else w_c = 1.
        share_epochs: with noise on all layers at once before the recursion, which share the budget out over the layers
            and decide nothing else; 0 takes the same part of every layer.
        trunks: prune residual sums too, with one noise vector for all layers that read one.
        all_weights: all weights train with the noise; else only those of the layers that read it.
        bn_batches: batches on which batch norm is measured anew after each layer.
        min_keep: least part of a layer's channels that stays, and at least 1.
    """

    layer_epochs: int = 5
    layer_lr: float = 1e-2
    rate_lr: float = 0.0
    rate_init: float = 0.05
    threshold: float = 0.9
    prior: Literal["dirac", "same-law", "bernoulli"] = "dirac"
    prior_variance: float = 1e-2
    prior_rate: float = 0.99
    lam: float = 0.0
    ramp_fraction: float = 0.2
    macs_weighted: bool = False
    share_epochs: int = 2
    trunks: bool = False
    all_weights: bool = True
    bn_batches: int = 100
    min_keep: float = 0.05

    def __post_init__(self) -> None:
        # No fields: settings stay plain.
        self._steering: Steering | None = None

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Returns a copy with noise on the inputs of all layers at once: independent noise, not the recursion.

        lam stays constant, and N counts as 1, unless `steer` says otherwise.

        Raises:
            MethodError: no layer can carry noise, or a setting is not allowed.
            GraphError: the network cannot be exported.
        """
        steps, _ = self.steps(model, trace(model, example))
        return self.attach_to(model, steps)

    def steps(self, model: nn.Module, graph: ChannelGraph) -> tuple[tuple[ChainStep, ...], dict[str, str]]:
        """Returns the steps of the chain, in forward order, and group -> why it is none.

        Raises:
            MethodError: there is none, or a setting is not allowed.
        """
        self.check()
        steps, left = find_steps(model, graph, trunks=self.trunks, macs_weighted=self.macs_weighted)
        if not steps:
            why = "; ".join(f"{name}: {reason}" for name, reason in left.items())
            raise MethodError(
                f"RBP (reconstruction): no layer of {type(model).__name__} can carry noise ({why or 'all are frozen'})"
            )
        return tuple(steps), left

    def attach_to(self, model: nn.Module, steps: tuple[ChainStep, ...], *, seed: int = 0) -> nn.Module:
        """Returns a copy with noise for these steps only; `seed` is that of its draws."""
        self._steering = None
        noisy = add_noise(model, steps, rate=self.rate_init, law=BernoulliMoments(), seed=seed)
        first = next(find_noise(noisy))
        first.add_module("pressure", Pressure())
        if not self.all_weights:
            readers = {reader.name for step in steps for reader in step.readers}
            rates = {id(noise.logits) for noise in find_noise(noisy)}
            for name, parameter in noisy.named_parameters():
                parameter.requires_grad_(name.rpartition(".")[0] in readers or id(parameter) in rates)
        return noisy

    def steer(self, steering: Steering) -> None:
        """Says how many steps the stage has, and where lam is to lead."""
        self._steering = replace(steering, lam=self.lam, ramp_fraction=self.ramp_fraction, slope=self._slope())

    def current_lam(self, model: nn.Module) -> float:
        """Returns the factor that the divergence has now."""
        return self.lam if self._steering is None else float(_pressure(list(find_noise(model))).lam)

    @property
    def pull(self) -> Prior:
        """The prior as the settings say."""
        return PRIORS[self.prior](self.prior_variance, self.prior_rate)

    def parameters(self, model: nn.Module) -> list[ParameterGroup]:
        """Kernels and linear weights with the loop's weight decay, vectors without; rates get no gradient there."""
        rates = {id(noise.logits) for noise in find_noise(model)}
        trained = [p for p in model.parameters() if p.requires_grad]
        weights = [p for p in trained if id(p) not in rates]
        groups: list[ParameterGroup] = [
            {"params": [p for p in weights if p.ndim >= 2]},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
            {"params": [p for p in trained if id(p) in rates], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Returns (lam / N) * sum_c w_c KL_c over all noise; None where there is none."""
        noises = list(find_noise(model))
        if not noises:
            return None
        prior = self.pull
        total = torch.stack([(n.weights * prior.kl(n.clipped_rates)).sum() for n in noises]).sum()
        if self._steering is None:
            return self.lam * total
        return total * _pressure(noises).lam.to(total) / self._steering.samples

    def after_backward(self, model: nn.Module) -> None:
        """Takes the rates' gradients away from the loop: their norm is not that of the weights, and Adam uses them."""
        for noise in find_noise(model):
            noise.take_gradient()

    def after_step(self, model: nn.Module) -> None:
        """Moves the rates, keeps them in range, and steers lam."""
        noises = list(find_noise(model))
        if not noises:
            return
        pressure, steering = _pressure(noises), self._steering
        pull = torch.cat([noise.gradient for noise in noises]).square().mean().sqrt().item()
        rate = self.rate_lr or (_LOGIT_RANGE / steering.steps if steering is not None else _LONE_RATE)
        for noise in noises:
            noise.move(rate, step=int(pressure.steps) + 1)
        if steering is None:
            pressure.steps += 1
        else:
            steering.update(pressure, kept=_expected_units(noises), data_pull=pull)

    def scores(self, model: nn.Module) -> Scores:
        """Returns the keep probability 1 - r of every unit of every group that has noise."""
        return Scores({n.group: n.law.mean(n.logits).detach().float().cpu() for n in find_noise(model)})

    def check(self) -> None:
        """Raises MethodError where a setting is out of its range; names all of them."""
        inside = ("rate_init", "threshold", "prior_variance", "prior_rate")
        problems = [
            f"{name}={getattr(self, name)} is not in (0, 1)" for name in inside if not 0 < getattr(self, name) < 1
        ]
        if not LEAST_RATE <= self.rate_init < self.threshold:
            problems.append(f"rate_init={self.rate_init} is not in [{LEAST_RATE}, threshold)")
        problems += [
            f"{name}={getattr(self, name)} is below 1"
            for name in ("layer_epochs", "bn_batches")
            if getattr(self, name) < 1
        ]
        below = ("layer_lr", "rate_lr", "lam", "share_epochs")
        problems += [f"{name}={getattr(self, name)} is below 0" for name in below if getattr(self, name) < 0]
        parts = ("ramp_fraction", "min_keep")
        problems += [
            f"{name}={getattr(self, name)} is not in [0, 1)" for name in parts if not 0 <= getattr(self, name) < 1
        ]
        if self.prior not in PRIORS:
            problems.append(f"prior={self.prior!r}; choose from: {', '.join(PRIORS)}")
        elif not problems and self.pull.resting_rate <= self.threshold:
            name = "a smaller prior_variance" if self.prior == "dirac" else "a larger prior_rate"
            problems.append(
                f"the prior rests at a rate of {self.pull.resting_rate:.3f}, so nothing gets past "
                f"threshold={self.threshold}; take {name}"
            )
        if problems:
            raise MethodError(f"RBP (reconstruction): {'; '.join(problems)}")

    def _slope(self) -> float:
        return slope(self.pull, self.rate_init)


def _expected_units(noises: list[ChannelNoise]) -> dict[str, float]:
    """Returns group -> sum of the keep probabilities."""
    sums = torch.stack([noise.law.mean(noise.logits.detach()).sum() for noise in noises]).tolist()
    return {noise.group: kept for noise, kept in zip(noises, sums, strict=True)}


def _pressure(noises: list[ChannelNoise]) -> Pressure:
    found = noises[0].get_submodule("pressure")
    assert isinstance(found, Pressure)
    return found
