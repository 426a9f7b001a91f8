"""How good a model is: replies against true turns, episodes against an environment's verdict, with intervals.

score        what a reply is worth, what a capability is     known        the capabilities by name
items        rows of a test set as prompt and gold           report       scores of one model, and their summary
scorers/     one a capability, pure functions                comparison   is one model better
planning/    plans that a simulator can judge                instructions/  what a program can check of a reply
statistics/  intervals and paired tests                      replies      one reply against the turn it should be
episodes     counts over runs                                forgetting   what is kept of a stream of tasks
*_items      seeded problems with their solutions, by split
"""
