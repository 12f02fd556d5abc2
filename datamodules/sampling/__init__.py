"""(seed, step) → rows: which source comes next, which rows an optimizer step trains on."""
