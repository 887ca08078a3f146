"""The machines of a cell that somebody else provides: Ray, or this machine playing several. Not for: what runs on them."""
