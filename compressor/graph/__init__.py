"""Which channels of a network belong together: tracing, groups, and their places in every layer."""

from compressor.graph.channel_graph import Branch, ChannelGraph, ChannelGroup, LayerChannels, Units
from compressor.graph.tracing import trace

__all__ = ["Branch", "ChannelGraph", "ChannelGroup", "LayerChannels", "Units", "trace"]
