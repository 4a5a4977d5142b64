"""Fuzzing of everything that parses what others wrote.

targets.py holds one function for each parser, seeds/ a small corpus for each. test_targets.py feeds them by hypothesis
and with the seeds, in every test run; `python -m tests.fuzz` lets atheris search by coverage for some seconds each.
"""
