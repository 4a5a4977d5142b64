"""A lint of the code that runs inside containers, and of what it rests on: rules P1 to P31 of docs/container-side.md.

    python -m tools.inside        one line for each place that breaks a rule; exit status 1 if there is one

Python finds modules, codecs, source lines and libraries by name, at run time. Once a process has the container's root,
those names lead into the image. So the functions that such a process may reach are found by following calls (code.py),
and they are held to rules that the rest of the program is free of (rules.py).
"""
