"""Model archives: packing, opening, fetching. Files only; imports nothing else of ours."""
