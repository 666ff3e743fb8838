"""Packages tried where they would be used; `make package-test` names these files, `make test` does not collect them."""
