"""The data plane: HTTP in, HTTP out. Holds no state of its own; reads the routing table, talks to workers."""
