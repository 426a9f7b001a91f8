"""What people see of a run: progress on stderr, tables on stdout. Needs rich and nothing heavier.

progress       bars on a terminal, plain lines elsewhere
curves         the learning curve of a run
tables         tables that read well on a terminal and in a file
preview        training rows token by token, what is trained marked
preview_page   the same as one HTML page
"""
