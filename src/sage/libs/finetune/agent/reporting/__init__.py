"""What people see of a run: progress on stderr, tables on stdout. Needs rich and nothing heavier.

progress       bars on a terminal, plain lines elsewhere
curves         the learning curve of a run
selection      what was chosen beside its pool, as table and picture
pictures       how pictures look and are written
tables         tables that read well on a terminal and in a file
stream         a stream of tasks: who forgot what
preview        training rows token by token, what is trained marked
preview_page   the same as one HTML page
"""
