"""Certificates: what PROVED rests on, and its check without a solver."""
