"""Contracts that every part obeys: run them on your own parts."""
