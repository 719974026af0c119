"""What runs in the sandbox's own processes: standard library only, nothing secret, imported before the doors close.

These modules use plain classes with slots where the rest of rung has dataclasses, and C modules where Python's wrap
them: a worker starts in the time that importing `dataclasses`, `enum` and `socket` would take.
"""
