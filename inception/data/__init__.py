"""Input: sources of examples, pixels from bytes, batches from (seed, step). No JAX in here."""
