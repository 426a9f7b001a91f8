"""One module a command. At the top they import only settings; `run` imports what does the work."""
