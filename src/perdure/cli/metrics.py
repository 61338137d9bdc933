"""`perdure worker --metrics-port`: what the process counts, for Prometheus."""

from __future__ import annotations

import logging

from perdure.app import App
from perdure.errors import InvalidOption

OPTION = "--metrics-port"
log = logging.getLogger("perdure.cli")


def with_metrics(app: App, port: int) -> App:
    """
    The same app with metrics, which are exposed from now on until the process ends.

    Args:
        app: If it has metrics of its own, it is these that are exposed.
        port: 0 for any that is free.

    Raises:
        InvalidOption: The extra is not installed, or the port is taken.
    """
    try:
        from perdure.observe.metrics import Metrics  # noqa: PLC0415 - an extra
    except ImportError:
        raise InvalidOption(OPTION, "it needs an extra: pip install 'perdure[metrics]'") from None
    found = next((observer for observer in app.observers if isinstance(observer, Metrics)), None)
    metrics = found or Metrics()
    try:
        served = metrics.serve(port)
    except OSError as error:
        raise InvalidOption(OPTION, f"port {port} cannot be had: {error.strerror}") from None
    log.info("metrics are exposed", extra={"port": served.port})
    return app if found else app.variant(observers=(*app.observers, metrics))
