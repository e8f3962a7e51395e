"""Removes what a terminated EC2 instance left in Route 53, Chef and Consul, and nothing else.

``handler`` tells the story of one event; ``steps`` holds one file for each clean-up step; ``clients`` talks
to AWS, Chef and Consul.
"""
