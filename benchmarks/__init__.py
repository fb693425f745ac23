"""How fast: scripts that anyone can run, ``python -m benchmarks.NAME``; see README.md beside them."""
