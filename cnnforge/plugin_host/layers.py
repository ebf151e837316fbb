"""Import the layers of plugins, so that Keras can open models that contain them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cnnforge.errors import PluginError, message_of
from cnnforge.plugin_host.discovery import discover

_log = logging.getLogger(__name__)


def load_layers(explicit: Sequence[str] = ()) -> None:
    """Import all layers that plugins declare, and the references that are not layers of Keras.

    A layer that cannot be imported is a warning of the logger `cnnforge`: the model that is opened
    perhaps does not contain it.

    Args:
        explicit: Files and modules of plugins that are not installed.

    Raises:
        UsageError: A plugin in `explicit` cannot be loaded.
    """
    for spec in discover(explicit).layers.values():
        try:
            spec.load()
            if spec.own_reference:
                spec.load_reference()
        except PluginError as error:
            _log.warning("the layer %s is left out: %s", spec.qualified_name, message_of(error))
