"""OpenVINO's dense fp32 beside ONNX Runtime's, and beside FBS on the native kernels: single layers and whole networks.

    pip install openvino
    python tests/benchmarks/openvino_dense.py --threads 1,4
    python tests/benchmarks/openvino_dense.py --networks cifarnet,torchvision:resnet18 --threads 1,4 --bytes
    python tests/benchmarks/openvino_dense.py --networks all --threads 1,4 --int8

A row: the dense layer's or network's time in ONNX Runtime, how many times as fast OpenVINO runs the same dense file,
and FBS at the density (of a layer half of the inputs live, half of the outputs win), and FBS over OpenVINO. All are
opened in one process and take turns round by round, with a pause before each (see native_layers.py). OpenVINO is told
to compute in float32 (`--bfloat16`: in that, as it would of its own accord where the processor has it), with one
stream on as many threads, and gets its input once. `--int8`: all three run networks of int8, the dense one with
QuantizeLinear and DequantizeLinear nodes.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import int8_networks
import native_layers
import native_networks
import numpy as np
import openvino
from native_layers import FLOAT, SHAPES, bound_run, fbs_run, open_session, options_for, round_by_round
from onnx import helper


def openvino_run(model, feed, threads, *, bfloat16=False):
    """What runs the model, a path or its bytes, on one input."""
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "EXECUTION_MODE_HINT": "PERFORMANCE" if bfloat16 else "ACCURACY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(feed, shared_memory=True))

    def run():
        request.start_async()
        request.wait()

    return run


def dense_layer(shape, batch):
    """The layer and its activation as a model's bytes, and an input."""
    constants, node = native_layers.conv(shape)
    size = [batch, shape.inputs, shape.plane, shape.plane]
    x, y = helper.make_tensor_value_info("x", FLOAT, size), helper.make_tensor_value_info("y", FLOAT, [None] * 4)
    graph = helper.make_graph([node, helper.make_node("Relu", ["c"], ["y"])], "layer", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString(), np.random.default_rng(1).normal(size=size).astype(np.float32)


def network(folder, name, options):
    """Paths of the dense network and of the one with FBS, and an input."""
    if options.int8:
        files = [
            native_networks.exported_int8(folder, name),
            int8_networks.exported_fbs_int8(folder, name, options.density),
        ]
    else:
        files = [
            native_networks.exported(folder, name, None, options.batch),
            native_networks.exported(
                folder, name, options.density, options.batch, half=options.half, in_bytes=options.bytes
            ),
        ]
    (entry,) = open_session(str(files[0]), options_for(1)).get_inputs()
    image = np.random.default_rng(0).normal(size=(options.batch, *entry.shape[1:])).astype(np.float32)
    return files, image


def show(name, threads, dense, peer, native, seconds):
    dense_ms, peer_gain = round_by_round(dense, peer, seconds)
    _, native_gain = round_by_round(dense, native, seconds)
    _, over_peer = round_by_round(peer, native, seconds)
    row = f"| {name} | {threads} | {dense_ms:.3g} | {peer_gain:.2f}× | {native_gain:.2f}× | {over_peer:.2f}× |"
    print(row, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", help="whole networks instead of layers; all: those of native_networks.py")
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--batch", type=int, default=1)
    rounding = parser.add_mutually_exclusive_group()
    rounding.add_argument("--half", choices=("predictors", "weights"), help="of FBS, of 16 bits")
    rounding.add_argument("--bytes", action="store_true", help="weights and predictors of FBS of 8 bits")
    rounding.add_argument("--int8", action="store_true", help="all in int8; of networks, one image at a time")
    parser.add_argument("--bfloat16", action="store_true", help="OpenVINO may compute in bfloat16")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each of three comparisons in a row")
    parser.add_argument("--folder", type=Path, help="for the networks' files; a temporary one by default")
    options = parser.parse_args()
    if options.int8 and (options.networks is None or options.batch != 1):
        parser.error("--int8 compares networks on one image; give --networks, and no --batch")
    print("| | threads | dense ms | OpenVINO | FBS | FBS over OpenVINO |\n|---|---|---|---|---|---|")
    threads = native_layers.numbers(options.threads, int)
    if options.networks is None:
        form = {"halves": {None: "", "predictors": "A", "weights": "WA"}[options.half], "in_bytes": options.bytes}
        for shape in SHAPES:
            model, image = dense_layer(shape, options.batch)
            for number in threads:
                dense = bound_run(open_session(model, options_for(number)), {"x": image})
                native, _ = fbs_run(shape, options.density, threads=number, batch=options.batch, isa="", **form)
                show(
                    shape.name(),
                    number,
                    dense,
                    openvino_run(model, image, number, bfloat16=options.bfloat16),
                    native,
                    options.seconds,
                )
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        names = native_networks.NETWORKS if options.networks == "all" else options.networks.split(",")
        for name in names:
            files, image = network(folder, name, options)
            for number in threads:
                dense, native = (
                    partial(session.run, None, {session.get_inputs()[0].name: image})
                    for session in (
                        open_session(str(files[0]), options_for(number)),
                        open_session(str(files[1]), options_for(number, native=True)),
                    )
                )
                show(
                    name,
                    number,
                    dense,
                    openvino_run(files[0], image, number, bfloat16=options.bfloat16),
                    native,
                    options.seconds,
                )


if __name__ == "__main__":
    main()
