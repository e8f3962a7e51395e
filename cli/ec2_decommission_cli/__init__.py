"""The operator's command for a deployed ec2-decommission. The function makes all decisions."""
