import sys
from pathlib import Path

# The plain definitions in fbs_reference.py serve several files here; importlib mode adds no folder to the
# path itself.
sys.path.insert(0, str(Path(__file__).parent))
