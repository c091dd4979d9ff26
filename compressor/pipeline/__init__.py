"""The roads of the command line as Python functions: one module per road, imported on demand."""

from compressor.siblings import SIBLINGS, check_siblings

# Before any of the modules here imports them: a foreign package would fail later, and in a way that does not say why.
check_siblings(*SIBLINGS)
