import sys
from pathlib import Path

# The networks of gate_networks.py serve several files; importlib mode adds no folder to the path itself.
sys.path.insert(0, str(Path(__file__).parent))
