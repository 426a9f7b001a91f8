"""Where episodes run: each executor takes episodes and yields their trajectories the moment they end.

local        one after another or in lockstep in this thread; or a thread each
ray_cluster  on other machines (optional package)
event_loop   the one loop that everything asynchronous runs on
stop         Ctrl-C, and how long to wait for what is still running
"""
