"""Models as a service: embedded (the default model), load, adapters and optimizer groups, losses, generate."""
