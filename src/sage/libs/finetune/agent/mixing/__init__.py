"""Several data sets as one, each task with its share: weights in, `TaskSample`s and an account of them out.

config       what is wanted of a mix              mixer      `MultiTaskMixer`, the door to all of it
shares       exact shares, and the size they allow   strategies   which row comes where, pure functions of counts
report       what came of it, task by task        streaming  the same for data larger than memory, in expectation
references   data sets with names and weights, written as text
"""
