"""Environments: where agents act. `desk/` is the embedded one; any object with `reset` and `step` will do."""
