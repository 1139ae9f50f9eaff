"""Carries ``proofs/``, which stays at the top of the repository, into the package as ``formal/proofs``.

All else that there is to say of the package is in ``pyproject.toml``, which cannot say this beside "all of formal".
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["formal", "formal.*"]), "formal.proofs"],
    package_dir={"formal.proofs": "proofs"},
)
