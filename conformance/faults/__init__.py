"""Runtimes broken on purpose, to prove that the suite catches them.

A broken runtime is a real one behind a wrapper (`python -m conformance.faults FAULT COMMAND...`) that edits config.json
on its way in, or changes what an operation does or says. Every area of the requirements has at least one.
"""
