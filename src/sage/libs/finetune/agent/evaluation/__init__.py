"""How good a model is: replies against true turns, episodes against an environment's verdict, with intervals.

statistics   intervals of shares      replies      one reply against the turn it should be
episodes     counts over runs         forgetting   what is kept of a stream of tasks
"""
