"""How many workers of what, where: queueing arithmetic and allocation, then its REST. Imports none of the others."""
