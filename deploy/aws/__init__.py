"""What `python -m deploy` does on AWS, one module for each reason to change."""
