"""The scope: what there is to prove, what is expected, what is assumed."""
