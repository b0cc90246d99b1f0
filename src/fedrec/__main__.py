"""`python -m fedrec` is the `fedrec` command."""

from fedrec.cli.main import run

if __name__ == "__main__":
    run()
