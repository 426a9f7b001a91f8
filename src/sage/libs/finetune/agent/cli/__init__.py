"""The command line `sage-finetune`: parse first, import after.

main       the commands, errors and exit codes
command    what a command is and what it reports
options    a Config dataclass as flags, and flags + YAML as a Config
logs       logging to stderr
commands/  one module a command: its Config and its `run`
"""
