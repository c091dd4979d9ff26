"""Networks out of ONNX files: trainable torch modules for networks without source.

    read = read_network(load_onnx("model.onnx"))     its steps and weights
    model = build(read.program)                      a plain module
    model.load_state_dict(read.state)

The program is plain values: a checkpoint holds it instead of an architecture's name.
"""

from compressor.onnx_in.batch_norms import batch_norm_state, convolutions_without, measure, with_batch_norms
from compressor.onnx_in.network import Network, build
from compressor.onnx_in.program import Program, Step, all_steps, program_from_json, program_to_json
from compressor.onnx_in.reading import ReadNetwork, read_network

__all__ = [
    "Network",
    "Program",
    "ReadNetwork",
    "Step",
    "all_steps",
    "batch_norm_state",
    "build",
    "convolutions_without",
    "measure",
    "program_from_json",
    "program_to_json",
    "read_network",
    "with_batch_norms",
]
