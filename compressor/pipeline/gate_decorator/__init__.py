"""The road of Gate Decorator: `road` goes it, one Tick or Tock after the other."""

from compressor.pipeline.gate_decorator.road import TickTock, forget, tick_tock

__all__ = ["TickTock", "forget", "tick_tock"]
