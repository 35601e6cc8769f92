"""The command for AWS: `python -m deploy`."""

from deploy.cli import app

if __name__ == "__main__":
    app(prog_name="python -m deploy")
