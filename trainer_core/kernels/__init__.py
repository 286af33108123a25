"""Faster ways to compute what a model computes, each of which can be left out."""
