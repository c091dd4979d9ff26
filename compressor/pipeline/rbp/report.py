"""What a run of RBP (reconstruction) tells: a line per layer, JSON beside the output, the rates as a picture.

Noise rates should be bimodal: channels that are needed near 0, redundant ones near 1. Where many lie between, a longer
`layer_epochs` or a larger `lam` is the remedy.
"""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from compressor.data.files import whole_file
from compressor.pipeline.rbp.state import LayerRecord

__all__ = ["LABEL", "layer_line", "write_report"]

LABEL = "RBP (reconstruction)"
_BARS = " ▁▂▃▄▅▆▇█"


def bars(counts: Sequence[int]) -> str:
    """Returns a histogram as text, one character per bin; any unit at all shows.

    >>> bars([8, 1, 0, 4])
    '█▁ ▄'
    """
    most = max([*counts, 1])
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)


def layer_line(record: LayerRecord, *, text: str, metric: str) -> str:
    """Returns what is said of a layer: `text`, what its noise came to, and how good the network is by the `metric`."""
    return (
        f"{text} {record.group}: {record.kept} of {record.units} channels stay "
        f"({record.redundant} redundant, {record.undecided:.0%} undecided, rates 0 |{bars(record.histogram)}| 1, "
        f"lam {record.lam:.3g}), {record.macs / record.macs_before:.2%} of the MACs, val {metric} "
        f"{record.val_noise:.2%} with noise, {record.val_top1:.2%} cut, {record.seconds:.1f} s"
    )


def write_report(layers: Sequence[LayerRecord], output: Path) -> list[Path]:
    """Writes `OUTPUT.rbp.json`, and `OUTPUT.rbp.png` where matplotlib is installed; each whole or not at all."""
    values = {"method": LABEL, "layers": [asdict(layer) for layer in layers]}
    written = [output.with_suffix(".rbp.json")]
    with whole_file(written[0]) as file:
        file.write(f"{json.dumps(values, indent=2)}\n".encode())
    if layers and importlib.util.find_spec("matplotlib") is not None:
        written.append(output.with_suffix(".rbp.png"))
        _draw(layers, written[1])
    return written


def _draw(layers: Sequence[LayerRecord], path: Path) -> None:
    from matplotlib.figure import Figure  # optional

    columns = min(4, len(layers))
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.2 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{LABEL}: channels per drop rate")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, layer in zip(panels, layers, strict=False):
        width = 1.0 / len(layer.histogram)
        panel.bar([width * i for i in range(len(layer.histogram))], layer.histogram, width=width, align="edge")
        panel.set_title(f"{layer.group}: {layer.kept} of {layer.units}", fontsize=8)
        panel.set_xlim(0, 1)
        panel.tick_params(labelsize=7)
    for panel in panels[len(layers) :]:
        panel.set_axis_off()
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
