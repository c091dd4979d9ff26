"""What torch cannot trace is one line of ours: torch's own pages about it do not reach the terminal."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import exporters
from compressor.costs.macs import count_macs
from compressor.errors import GraphError
from compressor.graph import trace
from compressor.graph.pairs import conv_bn_pairs
from exporters import ExportError

EXAMPLE = torch.ones(2, 3, 8, 8)


class Undecided(nn.Module):
    """Torch prints the graph so far."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(x)
        return found if found.sum() > 0 else -found


class Misshapen(Undecided):
    """Torch logs the trace of its meta kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mm(self.conv(x).flatten(1), torch.ones(7, 3))


ROADS: dict[str, Callable[[nn.Module, Path], object]] = {
    "export": lambda network, folder: exporters.export(network, EXAMPLE, folder / "m.onnx"),
    "trace": lambda network, _: trace(network, EXAMPLE),
    "macs": lambda network, _: count_macs(network, EXAMPLE),
    "pairs": lambda network, _: conv_bn_pairs(network, EXAMPLE),
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("kind", [Undecided, Misshapen])
def test_torch_says_nothing_besides(
    kind: type[nn.Module],
    road: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises((ExportError, GraphError)) as caught:
        ROADS[road](kind(), tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert logging.root.manager.disable == logging.NOTSET, "what the caller logs is heard again"
