"""The operator's command: looks after a deployed ec2-decommission. It decides nothing; the function does."""
