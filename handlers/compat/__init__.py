"""Names of other servers, for the handlers that were written for them."""
