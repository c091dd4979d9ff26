"""Puts preprocessing in front of a file that is finished, such as an int8 one."""

import tempfile
from pathlib import Path

import numpy as np

from exporters import targets
from exporters.errors import ExportError
from exporters.execution import execution_paths
from exporters.image_input import ImageInput, torch_image_input
from exporters.load import load_onnx
from exporters.metadata import read_metadata
from exporters.rewrite import check, describe, prepended
from exporters.store import SIZE_LIMIT_BYTES, move_model, save_model
from exporters.stress import stress_images
from exporters.verify import INT8_TOLERANCE, TOLERANCE
from exporters.winners import winner_outputs

__all__ = ["prepend_to_file"]


def prepend_to_file(path: Path, output: Path, image: ImageInput) -> None:
    """Writes `path` to `output` with preprocessing in front, once both agree on images; metadata is kept.

    An int8 file may round an input to the neighbouring step, so its outputs may differ by `INT8_TOLERANCE`; where FBS
    layers then choose other winners (`exporters.typical`), those of the typical kind of image.

    Raises:
        ExportError: The file cannot be read, takes inputs of another size, or disagrees.
    """
    import torch  # heavy, see exporters.export

    model = load_onnx(path)
    about = read_metadata(model)
    kind = targets.get(str(about.get("target", "onnx")))
    macs = about.get("macs")
    result = prepended(model, image)
    named = {key: value for key, value in about.items() if key not in ("version", "macs")}
    describe(
        result, {**named, "input": image.to_json()}, output, target=kind, macs=macs if isinstance(macs, int) else None
    )
    check(result, kind, limit_bytes=SIZE_LIMIT_BYTES)
    (way,) = execution_paths([])
    tolerance = INT8_TOLERANCE if "int8" in about else TOLERANCE
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        partial = Path(folder) / output.name
        save_model(result, partial)
        before, after = way.open(path), way.open(partial)
        differences = {}
        for name, images in stress_images((*image.image_size, image.size[0]), batch).items():
            inputs = torch_image_input(torch.from_numpy(images), image).numpy()
            (expected, *_), (found, *_) = before(inputs), after(images)
            differences[name] = float(np.abs(expected - found).max() / (np.abs(expected).max() or 1.0))
        ranked = sorted(differences, key=lambda name: (not np.isnan(differences[name]), -differences[name]))
        name = ranked[len(ranked) // 2 if "int8" in about and winner_outputs(model) else 0]
        if not differences[name] <= tolerance:
            raise ExportError(
                f"{output} was not written: with preprocessing inside it differs by {differences[name]:.2e} on "
                f"'{name}'; allowed is {tolerance:g}"
            )
        move_model(partial, output)
