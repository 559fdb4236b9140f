"""Adapters as people have them: files of every common format, read into layers."""

from .adapter import AdapterFile as AdapterFile
from .adapter import LayerFactors as LayerFactors
from .adapter import open_adapter as open_adapter
from .errors import BadAdapterError as BadAdapterError
from .places import find_weights as find_weights
