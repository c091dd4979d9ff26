"""The road of `compress export`: a checkpoint (or an untrained architecture) in, one ONNX file out."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import exporters
from compressor import methods
from compressor.checkpoint import CompressedCheckpoint, base_network
from compressor.costs.macs import count_macs
from compressor.errors import CompressorError, MethodError
from compressor.methods.fbs import FBS, layers, set_density
from compressor.pipeline.fixed_weights import fixed_weights
from compressor.pipeline.int8 import calibration, measure_accuracy, measure_int8_speed
from compressor.pipeline.layout import lay_out
from compressor.pipeline.padding import pad_widths
from compressor.pipeline.provenance import file_metadata
from compressor.pipeline.prune import prune
from compressor.pipeline.rounding import BYTE_WEIGHTS, HALF_PREDICTORS, HALF_WEIGHTS, INT8, round_network
from compressor.pipeline.source import Source, dense_counterpart, open_source
from compressor.pipeline.speedup import measure_speedup, require
from compressor.pipeline.steps import alignment_step
from compressor.pipeline.train import check_output
from compressor.train import Progress
from exporters.image_input import ImageInput
from exporters.prepend import prepend_to_file
from exporters.sparse_form import check_mode
from exporters.store import move_model

__all__ = ["Exported", "Shipping", "export_network"]

# Fitting the predictors of a dense network at export: one epoch at each density on the way down and as many at
# the end. Enough to be usable, less than `compress prune` gives; said so wherever it happens.
CALIBRATION_EPOCHS_AT_END = 3

# Measured on M-CifarNet, one thread of ONNX Runtime 1.31.1: 0.81x at 8 bits, 0.64x at 4 bits without, 1.0x with.
_DEQUANTIZED = (
    "weights come through DequantizeLinear: in an ONNX Runtime session of your own set session.disable_quant_qdq to 1, "
    "else it works them out again at every run (runtime.Session and 'compress bench' do it)"
)

# ONNX Runtime on the CPU is the only runtime that is at hand everywhere.
_NOT_TENSORRT = (
    "these speeds are ONNX Runtime's on this machine's CPU, not TensorRT's: trtexec, or 'compress bench --provider "
    "tensorrt' on a GPU, measures those"
)

# Evaluation cuts the middle out of a slightly larger picture: 224 of 256, as `compressor.data.photos` does.
_RESIZE_OVER_CROP = 256 / 224


@dataclass(frozen=True)
class Shipping:
    """What a file is to carry besides the network.

    Attributes:
        with_preprocessing: The file takes uint8 images (N, H, W, C) and normalises them itself.
        image_size: (height, width) of these images, which are then resized and cut as in evaluation; None: they have
            the network's size.
        int8: A name of `exporters.int8.CALIBRATIONS`: Q/DQ with ranges found that way; None keeps float32.
        calibration_images: How many real images the ranges are found on.
        sparse: Which pruned convolutions become a SparseConv, one of `exporters.sparse_form.SPARSE_MODES`.
        keep_never: Leave channels of an FBS network that never win in the file.
        half_predictors: Round an FBS network's saliency weights to 16 bits; for target onnx alone.
        half_weights: Round its other weights too, those of linear layers among them; not together with `int8`.
        byte_weights: Round all of these to 8 bits; with none of the two before nor `int8`.
        pad: Fill widths that ONNX Runtime handles badly up with channels of zeros; a plain float32 file alone.
        command: What the user typed, for the file's metadata; None from Python.
    """

    with_preprocessing: bool = False
    image_size: tuple[int, int] | None = None
    int8: str | None = None
    calibration_images: int = 256
    sparse: str = "auto"
    keep_never: bool = False
    half_predictors: bool = False
    half_weights: bool = False
    byte_weights: bool = False
    pad: bool = True
    command: str | None = None


@dataclass(frozen=True)
class Exported:
    """A written file and what was noticed on the way.

    Attributes:
        file: Path, target, opset, ops used, largest difference from torch, bytes.
        notes: One line each, for people.
    """

    file: exporters.ExportedModel
    notes: tuple[str, ...]


def export_network(
    name: str | CompressedCheckpoint,
    *,
    output: Path,
    method: str | None = None,
    density: float | None = None,
    data: str | None = None,
    target: str = "onnx",
    batch: int | Literal["dynamic"] = 1,
    untrained: bool = False,
    opset: int | None = None,
    measure: bool = False,
    require_speedup: float | None = None,
    shipping: Shipping | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Writes an ONNX file after it has been compared with torch on every way of running it here.

    1. A checkpoint that FBS trained: exported at its density, or at `density` with a note.
    2. A dense network without `method`: exported as it is, batch norm folded.
    3. A dense checkpoint with `method` fbs and `data`: predictors are fitted first, see CALIBRATION_EPOCHS_AT_END.
    4. An untrained architecture: FBS attached with start values; the file's metadata says untrained.

    With `data`, cases 1 and 3 count who wins on training images: channels that never do are removed, those that always
    do come first (`compressor.pipeline.layout`).

    Args:
        name: A checkpoint or its path; with `untrained`, an architecture.
        output: The file to write; whole or not at all.
        method: `fbs` or None.
        density: Part of each layer's channels that is computed, in (0, 1].
        data: What `compressor.data.load` takes; used in cases 1 and 3 and for int8.
        target: A name of `exporters.targets.names()`.
        batch: Samples per run, or `dynamic`.
        untrained: `name` is an architecture.
        opset: Of the standard ops; None takes the target's.
        measure: Time the file against the dense network on this machine.
        require_speedup: Least measured speed against dense; below it no file is written.
        shipping: Preprocessing, int8 and provenance; None takes the defaults.
        progress: Where to say how a fitting goes.

    Raises:
        CompressorError: The arguments do not go together, or the checkpoint is not usable.
        ExportError: The network cannot be exported, or the file's numbers differ from torch's.
    """
    check_output(output, source=None if untrained else name)
    if density is not None and not 0.0 < density <= 1.0:
        raise MethodError(f"density {density} is not in (0, 1]; 0.5 computes half of each layer's channels")
    shipping = shipping or Shipping()
    rounding = _rounding(shipping, target)
    if method is not None and method not in methods.names():
        methods.get(method)  # says what is allowed
    source = open_source(name, untrained=untrained)
    wanted = method or source.method
    if wanted is None and density is not None:
        raise CompressorError(f"--density needs a method: {source.name} is dense; add --method fbs")
    if wanted not in (None, "fbs"):
        raise MethodError(f"method {wanted} leaves a plain network: prune first, then export without --method")
    if wanted is None or source.method is not None:
        source, notes = _at_density(source, density)
    elif source.saved is None:
        source, notes = _attach_untrained(source, density)
    else:
        source, notes = _fit(source, data, density, progress)
    check_mode(shipping.sparse)  # also where filled-up widths leave nothing to decide
    image = _image_input(source, shipping)
    about = file_metadata(source, command=shipping.command)
    unrounded = source
    if rounding is None and shipping.int8 is not None and _has_free_predictors(source, target):
        rounding = INT8
    if rounding is not None:
        # What int8 does to the accuracy is said once, of all of it.
        source, entries, note = round_network(source, None if rounding == INT8 else data, rounding)
        notes, about = (*notes, note), {**about, **entries}
    if data is not None and source.saved is not None and layers(source.model):
        layout = lay_out(source, data, keep_never=shipping.keep_never)
        source, notes = layout.source, (*notes, *layout.notes)
        about = {**about, "winners": layout.record}
    words = fixed_weights(source.saved, source.model)
    sparse = shipping.sparse
    if shipping.pad and target == "onnx" and shipping.int8 is None and not words:
        padded = pad_widths(source.model, source.example())
        if padded is not None:
            source, notes = replace(source, model=padded.model), (*notes, padded.summary())
            about, sparse = {**about, "padded": padded.channels}, "off"  # its zeros are no pruned kernels
    if words and shipping.int8 is not None:
        notes = (*notes, "the fixed-point weights keep their steps")
    elif words and target == "onnx":
        notes = (*notes, _DEQUANTIZED)
    ranges = None
    if shipping.int8 is not None:
        ranges = calibration(source, data, method=shipping.int8, num_images=shipping.calibration_images)
    write = partial(
        exporters.export,
        source.model,
        source.example(),
        batch=batch,
        target=target,
        opset=opset,
        metadata=about,
        fixed_point=words,
        sparse=sparse,
    )
    speeds: tuple[str, ...] = ()
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        # The final name is taken only once the speed is known to do.
        file = write(path=Path(folder) / output.name, image=None if ranges is not None else image)
        if ranges is not None:
            settings, dataset = ranges
            float_file, int8_folder = file.path, Path(folder) / "int8"
            int8_folder.mkdir()
            file = write(path=int8_folder / output.name, int8=settings)
            before = unrounded if rounding == INT8 else source
            notes = (*notes, measure_accuracy(before, file.path, dataset).summary())
            if measure:
                speeds = (measure_int8_speed(float_file, file.path, batch=1 if batch == "dynamic" else batch),)
        if (measure or require_speedup is not None) and batch in (1, "dynamic"):
            speeds = (*speeds, *_compare_speed(source, file, require_speedup))
        if ranges is not None and image is not None:
            prepend_to_file(file.path, file.path, image)
            file = replace(file, file_bytes=file.path.stat().st_size)
        move_model(file.path, output)
    if speeds and target == "tensorrt":
        speeds = (*speeds, _NOT_TENSORRT)
    return Exported(replace(file, path=output), (*notes, *speeds, *file.notes))


def _rounding(shipping: Shipping, target: str) -> str | None:
    """The option that says how weights are rounded; None leaves them as they are.

    Raises:
        CompressorError: It does not go with the rest.
    """
    wanted = {
        BYTE_WEIGHTS: shipping.byte_weights,
        HALF_WEIGHTS: shipping.half_weights,
        HALF_PREDICTORS: shipping.half_predictors,
    }
    options = [option for option, is_wanted in wanted.items() if is_wanted]
    if not options:
        return None
    option, *others = options
    if target != "onnx":
        raise CompressorError(f"{option} is for target onnx, where our ops read such numbers, not for {target}")
    if option == BYTE_WEIGHTS and others:
        raise CompressorError(f"{option} gives weights and predictors 8 bits, not 16: leave {' and '.join(others)} out")
    if option == BYTE_WEIGHTS and shipping.int8 is not None:
        raise CompressorError(f"{option}: with --int8 weights have 8 bits already; leave it out")
    if option == HALF_WEIGHTS and shipping.int8 is not None:
        raise CompressorError(f"{option}: with --int8 weights are smaller still; add {HALF_PREDICTORS} instead")
    return option


def _has_free_predictors(source: Source, target: str) -> bool:
    """Whether there are saliency weights in float that our ops read."""
    fixed = source.saved is not None and source.saved.fixed_point is not None
    return target == "onnx" and not fixed and bool(layers(source.model))


def _image_input(source: Source, shipping: Shipping) -> ImageInput | None:
    """Preprocessing to put into the file.

    Raises:
        CompressorError: The network has none, or an image size is given without asking for it.
    """
    if not shipping.with_preprocessing:
        if shipping.image_size is not None:
            raise CompressorError("--image-size is the size of the images that --with-preprocessing takes; add it")
        return None
    if source.saved is None:
        raise CompressorError(f"{source.name} is untrained: it has no preprocessing to put into the file")
    about = source.saved.preprocessing
    resized = None
    if shipping.image_size is not None:
        resized = (round(about.size[1] * _RESIZE_OVER_CROP), round(about.size[2] * _RESIZE_OVER_CROP))
    return ImageInput(about.mean, about.std, about.size, source=shipping.image_size, resized=resized)


def _compare_speed(source: Source, file: exporters.ExportedModel, least: float | None) -> tuple[str, ...]:
    """What the file gains over the dense network of the same architecture; nothing for a dense network.

    Raises:
        BudgetError: It gains less than `least`.
        CompressorError: A gain is asked of a dense network.
    """
    dense = dense_counterpart(source)
    if dense is None and file.forms and source.saved is not None:  # no channel is gone, but weights are
        dense = base_network(source.saved).eval()
    if dense is None:
        if least is not None:
            raise CompressorError(
                f"{source.name} is dense, there is no speed-up to require: leave --require-speedup out, or prune first"
            )
        return ()
    speedup = measure_speedup(dense, file.path, source.example())
    if least is not None:
        example = source.example()
        cost, dense_macs = count_macs(source.model, example), count_macs(dense, example).macs
        require(speedup, least, cost, dense_macs=dense_macs, step=alignment_step("auto"))
    return (speedup.summary(),)


def _at_density(source: Source, density: float | None) -> tuple[Source, tuple[str, ...]]:
    """The network as it was trained, or at another density."""
    saved = source.saved
    if saved is None or density is None or saved.density is None or density == saved.density:
        return source, ()
    set_density(source.model, density)
    note = (
        f"trained at density {saved.density:g}, exported at {density:g}: its accuracy there is not known; "
        "an FBS network serves the density it was trained at"
    )
    return replace(source, saved=replace(saved, density=density, record={})), (note,)


def _attach_untrained(source: Source, density: float | None) -> tuple[Source, tuple[str, ...]]:
    model = FBS(density=_required(density)).attach(source.model, source.example()).eval()
    return replace(source, model=model), ("untrained: for latency studies only",)


def _fit(
    source: Source, data: str | None, density: float | None, progress: Progress | None
) -> tuple[Source, tuple[str, ...]]:
    """Trains FBS for a few epochs; the checkpoint it makes is not kept."""
    if data is None:
        raise CompressorError(
            f"{source.name} is dense: its saliency predictors must be fitted first. Add --data for a short fit, "
            "or train them with 'compress prune --method fbs'; --untrained takes an architecture for latency studies"
        )
    fbs = FBS(density=_required(density), final_epochs=CALIBRATION_EPOCHS_AT_END)
    with TemporaryDirectory() as folder:
        fitted = prune(
            source.name,
            data=data,
            density=fbs.density,
            output=Path(folder) / "fitted.pt",
            method_settings={"final_epochs": fbs.final_epochs},
            progress=progress,
        )
        note = (
            f"predictors fitted in {len(fitted.curve)} epochs: {fitted.summary().partition(': ')[2]}; "
            "'compress prune' with more epochs gives more accuracy"
        )
        return open_source(str(fitted.path)), (note,)


def _required(density: float | None) -> float:
    if density is None:
        raise CompressorError("method fbs needs a density: add --density, for example --density 0.5")
    return density
