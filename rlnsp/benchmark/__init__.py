"""The benchmark: policies on the same scenes from the same noise, by several measures, in one table."""
