"""What a file says about itself: ONNX metadata_props under `compress.`, strings or JSON."""

import importlib.metadata
import json
from collections.abc import Mapping

from onnx import ModelProto

__all__ = ["KEYS", "package_version", "read_metadata", "write_metadata"]

PREFIX = "compress."

KEYS = {
    "version": "version of the package that wrote the file",
    "method": "how the network was compressed, none for a dense one",
    "density": "fraction of channels computed per input, 0 to 1",
    "macs": "multiply-accumulates for one sample, see exporters.inspect",
    "accuracy": "top-1 as measured by whoever exported, with the data set's name",
    "preprocessing": "mean, std and size that the input needs",
    "trained": "false: the weights were never fitted, the file serves latency studies only",
    "target": "what the file was made for, one of exporters.targets.names()",
    "input": "preprocessing inside the file: it takes uint8 images, see exporters.image_input.ImageInput",
    "int8": "how Q/DQ ranges were calibrated, and on how many inputs",
    "fixed_point": "bits of each weight stored as whole numbers, and Qm.n where its steps are powers of two",
    "sparse": "what became of each pruned convolution, see exporters.sparse_form.LayerForm",
    "trtexec": "the command that builds a TensorRT engine",
    "architecture": "name and arguments of the network that the plan was made for",
    "plan": "channels kept, cut by cut: what `compress prune --plan` takes",
    "winners": "channels of each group in the order of how often they won, those that never did left out",
    "predictors": "float16 or int8 where saliency weights were rounded to it before the export",
    "weights": "float16 or int8 where those of FBS layers and linear layers were rounded to it before the export",
    "padded": "channels of zeros that fill widths up, which the plan does not know of",
    "settings": "the method's hyper-parameters",
    "recipe": "the recipe that made the network, where there was one",
    "command": "the command that wrote the file",
    "training": "command, data and seeds that made the checkpoint",
    "verify": "SHA-256 of the report that `compress verify --json` wrote about this file, and what it found",
}


def write_metadata(model: ModelProto, values: Mapping[str, object]) -> None:
    """Changes `model`: sets compress.<key> for every value that is not None, sorted by key.

    Strings are written as they are, everything else as JSON with sorted keys.
    """
    kept = {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith(PREFIX)}
    for key, value in values.items():
        if value is not None:
            kept[PREFIX + key] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    del model.metadata_props[:]
    for key in sorted(kept):
        model.metadata_props.add(key=key, value=kept[key])


def read_metadata(model: ModelProto) -> dict[str, object]:
    """The compress.<key> entries, keys without the prefix; JSON values decoded, other text as it is."""
    found: dict[str, object] = {}
    for entry in model.metadata_props:
        if not entry.key.startswith(PREFIX):
            continue
        try:
            found[entry.key.removeprefix(PREFIX)] = json.loads(entry.value)
        except json.JSONDecodeError:
            found[entry.key.removeprefix(PREFIX)] = entry.value
    return found


def package_version() -> str:
    """The installed package's version; `source` when it runs from a checkout that was not installed."""
    try:
        return importlib.metadata.version("compressor")
    except importlib.metadata.PackageNotFoundError:
        return "source"
