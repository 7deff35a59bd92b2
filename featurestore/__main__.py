"""`python -m featurestore` is the `featurestore` command."""

from featurestore.cli.main import main

main()
