"""`python -m medseg`, for launchers such as torchrun."""

from medseg.cli import main

main()
