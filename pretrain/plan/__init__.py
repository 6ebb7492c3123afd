"""``rlnsp plan --stage``: what stages 1 and 2 will need, counted without weights."""
