"""From trajectories to training rows.

converter   the configuration and the two calls, `convert` and `convert_single`
chatml      messages with tool calls: what training uses
alpaca      instruction and one ReAct text: for tools that know nothing else
"""
