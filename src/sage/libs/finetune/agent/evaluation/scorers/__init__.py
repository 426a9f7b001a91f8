"""One scorer a capability: a reply and an item in, a `Score` out. Pure functions."""
