"""What people see of a run: progress on stderr, tables on stdout. Needs rich and nothing heavier.

progress   bars on a terminal, plain lines elsewhere
tables     tables that read well on a terminal and in a file
"""
