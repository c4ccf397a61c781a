"""`erp-sync doctor`: what is missing or wrong, in one look that changes nothing. One file for each area.

`watch.py` is what a container's health check asks, and imports none of the others.
"""
