"""Execution: tries targets until one responds, within the limits and timeouts of each attempt."""
