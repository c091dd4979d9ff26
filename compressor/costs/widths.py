"""Costs of a network as a function of how many units each channel group keeps, without building it.

The width of an axis is linear in the kept counts n:  w_r = fixed_r + Σ_g share_rg · n_g.  A convolution costs
macs · (w_in / in) · (w_out / out), a depthwise one macs · (w_out / out), a parameter the product of its widths and of
the sizes that no cut touches. Exact, as `shrink` would leave it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compressor.graph import ChannelGraph, Units

__all__ = ["AxisRows", "Counts", "WidthCosts", "count_units", "planned_macs", "planned_params", "width_costs"]

Counts = npt.NDArray[np.int64]  # (groups,) kept units of each group


@dataclass(frozen=True, eq=False)
class WidthCosts:
    """Tables behind `planned_macs` and `planned_params`; row 0 is the constant width 1.

    Attributes:
        fixed: (rows,) channels of an axis that no group holds.
        share: (rows, groups) channels of an axis per unit of a group.
        macs: (layers,) multiply-accumulates per product of widths.
        macs_rows: (layers, 2) rows to multiply.
        params: (parameters,) numbers per product of widths.
        params_rows: (parameters, dimensions) rows to multiply.
    """

    fixed: npt.NDArray[np.float64]
    share: npt.NDArray[np.float64]
    macs: npt.NDArray[np.float64]
    macs_rows: npt.NDArray[np.int64]
    params: npt.NDArray[np.float64]
    params_rows: npt.NDArray[np.int64]


class AxisRows:
    """Collects the widths of axes as rows of `fixed` and `share`; row 0 is the constant width 1."""

    def __init__(self, graph: ChannelGraph) -> None:
        self._group_of = np.repeat(np.arange(len(graph.groups)), [group.size for group in graph.groups])
        self._sizes = np.maximum(np.array([group.size for group in graph.groups], dtype=np.float64), 1)
        self._fixed, self._share = [1.0], [np.zeros(len(graph.groups))]

    def add(self, units: Units) -> int:
        """Returns the number of the row of an axis that holds these units."""
        held = np.bincount(self._group_of[units[units >= 0]], minlength=len(self._sizes))
        self._fixed.append(float((units < 0).sum()))
        self._share.append(held / self._sizes)
        return len(self._fixed) - 1

    @property
    def fixed(self) -> npt.NDArray[np.float64]:
        """(rows,) channels of an axis that no group holds."""
        return np.array(self._fixed)

    @property
    def share(self) -> npt.NDArray[np.float64]:
        """(rows, groups) channels of an axis per unit of a group."""
        return np.array(self._share)


def width_costs(graph: ChannelGraph) -> WidthCosts:
    """Returns the cost tables of a graph."""
    rows = AxisRows(graph)
    macs, macs_rows = [], []
    for layer in graph.layers:
        if layer.macs:
            depthwise = layer.groups > 1 and layer.groups == len(layer.inputs)
            macs.append(layer.macs / ((1 if depthwise else len(layer.inputs)) * len(layer.outputs)))
            macs_rows.append((0 if depthwise else rows.add(layer.inputs), rows.add(layer.outputs)))
    params, params_rows = [], []
    for path, shape in graph.shapes.items():
        axes = [units for units in graph.axes.get(path, ()) if units is not None]
        params.append(float(np.prod(shape)) / float(np.prod([len(units) for units in axes])))
        params_rows.append([rows.add(units) for units in axes])
    depth = max((len(axes_rows) for axes_rows in params_rows), default=1)
    padded = [axes_rows + [0] * (depth - len(axes_rows)) for axes_rows in params_rows]
    return WidthCosts(
        rows.fixed,
        rows.share,
        np.array(macs),
        np.array(macs_rows, dtype=np.int64).reshape(-1, 2),
        np.array(params),
        np.array(padded, dtype=np.int64).reshape(-1, depth),
    )


def count_units(graph: ChannelGraph, keep: Sequence[bool] | npt.NDArray[np.bool_]) -> Counts:
    """Returns how many units of each group stay; `keep`: (units,) booleans."""
    kept = np.asarray(keep)
    return np.array([kept[g.start : g.start + g.size].sum() for g in graph.groups], dtype=np.int64)


def planned_macs(costs: WidthCosts, counts: Counts) -> float:
    """Returns multiply-accumulates per sample of all convolutions and linear layers."""
    widths = costs.fixed + costs.share @ counts
    return float(costs.macs @ widths[costs.macs_rows].prod(axis=1))


def planned_params(costs: WidthCosts, counts: Counts) -> float:
    """Returns the number of parameters."""
    widths = costs.fixed + costs.share @ counts
    return float(costs.params @ widths[costs.params_rows].prod(axis=1))
