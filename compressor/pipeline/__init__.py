"""The roads of the command line as Python functions: one module per road, imported on demand."""
