"""ts.utils.timeit_decorator"""

import functools
import logging
import time

logger = logging.getLogger(__name__)


def timeit(function):
    """Logs how long each call took."""

    @functools.wraps(function)
    def measured(*args, **kwargs):
        started = time.monotonic()
        result = function(*args, **kwargs)
        logger.info("Function %s took %.4f seconds", function.__name__, time.monotonic() - started)
        return result

    return measured
