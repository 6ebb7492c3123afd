"""rlnsp's own commands, one module each, imported only when chosen."""
