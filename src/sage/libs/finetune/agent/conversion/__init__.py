"""From trajectories to training rows, and from samples to the rows that other tools read.

converter    trajectories to rows: the configuration and the two calls, `convert` and `convert_single`
alpaca       instruction and one ReAct text: for tools that know nothing else
export       samples in every form that can be written; sharegpt and atif have a module each
preferences  what succeeded against what failed, as pairs
"""
