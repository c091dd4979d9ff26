"""Graph rewrites, one a file: each changes an onnx-graphsurgeon graph and returns how often it applied."""
